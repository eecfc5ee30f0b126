"""What waits, in order: the tickets of one priority by arrival, and by key.

A ticket that leaves out of turn (withdrawn, or taken from the middle of the arrival order) stays behind as a husk;
husks are skipped when they reach an end, and swept once they outnumber the living, so that a model that hangs
cannot collect the requests of callers who have left. Everything is amortised O(1) per ticket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Generic, TypeVar

from libs.serving.call import never_cancelled

T = TypeVar("T")

# Below this many husks a sweep costs more than the memory it frees.
_MIN_HUSKS = 64


class State(IntEnum):
    """Where a ticket is. It leaves QUEUED once, so every ticket has exactly one outcome."""

    QUEUED = 0
    TAKEN = 1
    EXPIRED = 2
    CANCELLED = 3
    WITHDRAWN = 4
    SHED = 5


QUEUED = State.QUEUED  # a global: an enum attribute costs a lookup per ticket


class Ticket(Generic[T]):
    """One queued item.

    Attributes:
        item: what the model gets.
        rows: its size, 1 or more.
        key: tickets of equal keys may share a batch.
        deadline: when its answer must be there, on the caller's clock, the one `now` is read from; None for no
            deadline.
        cancelled: whether its caller is gone; asked just before the ticket would run.
        priority: smaller is sooner.
        arrived: when it was offered.
        start_by: when its run must have begun; inf for no deadline.
        state: see `State`.
    """

    __slots__ = ("arrived", "cancelled", "deadline", "item", "key", "priority", "rows", "start_by", "state")

    def __init__(
        self,
        item: T,
        rows: int = 1,
        key: Hashable = None,
        deadline: float | None = None,
        cancelled: Callable[[], bool] = never_cancelled,
        priority: int = 0,
    ) -> None:
        self.item = item
        self.rows = rows
        self.key = key
        self.deadline = deadline
        self.cancelled = cancelled
        self.priority = priority
        self.arrived = 0.0
        self.start_by = _NEVER
        self.state = QUEUED


_NEVER = float("inf")

TicketT = TypeVar("TicketT", bound=Ticket)  # type: ignore[type-arg]  # a bound cannot name another type variable


class Lane(Generic[TicketT]):
    """Tickets of one key in arrival order, and how many rows of them still wait."""

    __slots__ = ("rows", "tickets")

    def __init__(self) -> None:
        self.tickets: deque[TicketT] = deque()
        self.rows = 0


class Level(Generic[TicketT]):
    """The tickets of one priority.

    Attributes:
        priority: theirs.
        lanes: by key. A lane without tickets is removed.
        items: tickets that wait.
        rows: of them together.
    """

    __slots__ = ("_order", "items", "lanes", "priority", "rows")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.lanes: dict[Hashable, Lane[TicketT]] = {}
        self.items = 0
        self.rows = 0
        self._order: deque[TicketT] = deque()

    def add(self, ticket: TicketT) -> None:
        """Queues a ticket behind all others."""
        lane = self.lanes.get(ticket.key)
        if lane is None:
            lane = self.lanes[ticket.key] = Lane()
        rows = ticket.rows
        lane.tickets.append(ticket)
        lane.rows += rows
        self._order.append(ticket)
        self.rows += rows
        self.items += 1

    def leave(self, ticket: TicketT, state: State) -> None:
        """Counts a ticket out. It stays behind as a husk; call `tidy` when done."""
        ticket.state = state
        rows = ticket.rows
        self.lanes[ticket.key].rows -= rows
        self.rows -= rows
        self.items -= 1

    def took(self, key: Hashable, items: int, rows: int) -> None:
        """Counts out tickets of one key that were popped off their lane."""
        self.lanes[key].rows -= rows
        self.rows -= rows
        self.items -= items
        self.tidy(key)

    def oldest(self) -> TicketT | None:
        """The ticket that has waited longest."""
        order = self._order
        while order:
            ticket = order[0]
            if ticket.state is QUEUED:
                return ticket
            order.popleft()
        return None

    def newest(self) -> TicketT | None:
        """The ticket that came last."""
        order = self._order
        while order:
            ticket = order[-1]
            if ticket.state is QUEUED:
                return ticket
            order.pop()
        return None

    def tidy(self, key: Hashable) -> None:
        """Drops husks after tickets of this key have left: those at the fronts always, all of them once they
        outnumber the living."""
        lane = self.lanes.get(key)
        if lane is not None:
            tickets = lane.tickets
            while tickets and tickets[0].state is not QUEUED:
                tickets.popleft()
            if not tickets:
                del self.lanes[key]
        order = self._order
        while order and order[0].state is not QUEUED:
            order.popleft()
        if len(order) > 2 * self.items + _MIN_HUSKS:
            self._order = deque(ticket for ticket in order if ticket.state is QUEUED)
            for each, lane in list(self.lanes.items()):
                lane.tickets = deque(ticket for ticket in lane.tickets if ticket.state is QUEUED)
                if not lane.tickets:
                    del self.lanes[each]

    def drain(self, state: State) -> list[TicketT]:
        """Takes all tickets out, oldest first."""
        left = [ticket for ticket in self._order if ticket.state is QUEUED]
        for ticket in left:
            self.leave(ticket, state)
        self._order.clear()
        self.lanes.clear()
        return left
