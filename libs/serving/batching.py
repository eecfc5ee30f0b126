"""The batching decision, pure: what waits, what runs next, what is dropped. No threads, no event loop, no
clock.

`BatchQueue` holds tickets in arrival order, and by key in lanes. Only tickets of one key can share a batch
(same shapes and dtypes, say). `take(now)` answers with the next batch: the lane of the oldest waiting ticket,
from its head on, up to `max_batch_size` rows. So order is FIFO within a key, and no key starves: whoever has
waited longest decides which lane is next.

Rows are the unit of both bounds. The time of a model run grows with rows, not with requests, and memory does
too.

Everything is amortised O(1) per ticket. A ticket that leaves out of turn (withdrawn, or taken from the middle
of the arrival order) stays behind as a husk; husks are skipped when they reach the front, and swept once they
outnumber the living, so that a model that hangs cannot collect the requests of callers who have left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

from libs.serving.call import never_cancelled
from libs.serving.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted

T = TypeVar("T")

# Below this many husks a sweep costs more than the memory it frees.
_MIN_HUSKS = 64


@dataclass(frozen=True)
class BatchPolicy:
    """Bounds of one batch queue.

    Attributes:
        max_batch_size: most rows in one run; an item with more is refused as InvalidArgument.
        max_queue_rows: most rows waiting, those in a run not counted; an item beyond is refused as
            ResourceExhausted.
        max_delay_ms: how long an incomplete batch may wait for company. It holds only while the traffic is
            seen to be concurrent (another item waits, or a batch of several has just ended): a lone request
            never waits. 0 starts whatever is there as soon as a model thread is free.
    """

    max_batch_size: int
    max_queue_rows: int
    max_delay_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size is {self.max_batch_size}: expected at least 1 row")
        if self.max_queue_rows < self.max_batch_size:
            raise ValueError(
                f"max_queue_rows is {self.max_queue_rows}: expected at least max_batch_size,"
                f" {self.max_batch_size}, or a full batch could never be queued"
            )
        if not 0 <= self.max_delay_ms < float("inf"):
            raise ValueError(
                f"max_delay_ms is {self.max_delay_ms}: expected a finite number of milliseconds, 0 or more"
            )


class State(IntEnum):
    """Where a ticket is. It leaves QUEUED once, so every ticket has exactly one outcome."""

    QUEUED = 0
    TAKEN = 1
    EXPIRED = 2
    CANCELLED = 3
    WITHDRAWN = 4


_QUEUED, _TAKEN, _EXPIRED, _CANCELLED, _WITHDRAWN = (
    State  # globals: an enum attribute costs a lookup per ticket
)


class Ticket(Generic[T]):
    """One queued item.

    Attributes:
        item: what the model gets.
        rows: its size, 1 or more.
        key: tickets of equal keys may share a batch.
        deadline: on the caller's clock, the one `now` is read from; None for no deadline.
        cancelled: whether its caller is gone; asked just before the ticket would run.
        priority: smaller is sooner.
        arrived: when it was offered.
        state: see `State`.
    """

    __slots__ = ("arrived", "cancelled", "deadline", "item", "key", "priority", "rows", "state")

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
        self.state = _QUEUED


TicketT = TypeVar("TicketT", bound=Ticket)  # type: ignore[type-arg]  # a bound cannot name another type variable


class _Lane(Generic[TicketT]):
    """Tickets of one key in arrival order, and how many rows of them still wait."""

    __slots__ = ("rows", "tickets")

    def __init__(self) -> None:
        self.tickets: deque[TicketT] = deque()
        self.rows = 0


@dataclass(slots=True)
class Take(Generic[TicketT]):
    """Answer of `BatchQueue.take`.

    Attributes:
        batch: tickets of one key to run now, oldest first; empty when nothing should run yet.
        rows: of the batch together.
        dropped: tickets found EXPIRED or CANCELLED on the way; they never run.
        wake_at: when to ask again if nothing arrives before; None if there is nothing to wait for.
    """

    batch: list[TicketT]
    rows: int
    dropped: list[TicketT]
    wake_at: float | None


class BatchQueue(Generic[TicketT]):
    """Bounded queue that forms batches; see the module's text. Not thread safe: the shell holds a lock around
    it."""

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._max_rows = policy.max_batch_size
        self._bound = policy.max_queue_rows
        self._delay = policy.max_delay_ms / 1e3
        self._order: deque[TicketT] = deque()
        self._lanes: dict[Hashable, _Lane[TicketT]] = {}
        self._last_items = 0
        self._last_end = float("-inf")
        self.items = 0
        self.rows = 0

    def offer(self, ticket: TicketT, now: float) -> None:
        """Queues a ticket.

        Raises:
            InvalidArgument: its rows are below 1 or above max_batch_size.
            DeadlineExceeded: its deadline has passed.
            ResourceExhausted: the queue has no room for its rows.
        """
        rows = ticket.rows
        if not 1 <= rows <= self._max_rows:
            raise InvalidArgument(
                f"the request has {rows} rows: expected 1 to {self._max_rows} (max batch size)"
            )
        if ticket.deadline is not None and ticket.deadline <= now:
            raise DeadlineExceeded("the deadline passed before the request was queued")
        if self.rows + rows > self._bound:
            raise ResourceExhausted(
                f"the queue is full: {self.rows} of {self._bound} rows wait, {rows} more do not fit"
            )
        ticket.arrived = now
        lane = self._lanes.get(ticket.key)
        if lane is None:
            lane = self._lanes[ticket.key] = _Lane()
        lane.tickets.append(ticket)
        lane.rows += rows
        self._order.append(ticket)
        self.rows += rows
        self.items += 1

    def take(self, now: float) -> Take[TicketT]:
        """Removes and answers the next batch to run, dropping the expired and the cancelled that it meets."""
        batch: list[TicketT] = []
        dropped: list[TicketT] = []
        head = self._head(now, dropped)
        if head is None:
            return Take(batch, 0, dropped, None)
        lane = self._lanes[head.key]
        if self._delay:
            wake_at = self._hold_until(head, lane, now)
            if wake_at is not None:
                return Take(batch, 0, dropped, wake_at)
        room = self._max_rows
        tickets = lane.tickets
        while tickets:
            ticket = tickets[0]
            if ticket.state is _QUEUED and not self._dead(ticket, now, dropped):
                if ticket.rows > room:
                    break
                room -= ticket.rows
                self._leave(ticket, _TAKEN)
                batch.append(ticket)
            tickets.popleft()
        if not tickets:
            del self._lanes[head.key]
        self._trim()
        return Take(batch, self._max_rows - room, dropped, None)

    def withdraw(self, ticket: TicketT) -> bool:
        """Takes a ticket out whose caller wants no answer any more; False if it is not queued (running or
        done)."""
        if ticket.state is not _QUEUED:
            return False
        self._leave(ticket, _WITHDRAWN)
        self._shed(ticket.key)
        self._trim()
        return True

    def finished(self, items: int, now: float) -> None:
        """Reports that a batch of so many items ended; tells concurrent traffic from lone requests."""
        self._last_items = items
        self._last_end = now

    def drain(self) -> list[TicketT]:
        """Withdraws every queued ticket, oldest first."""
        left = [ticket for ticket in self._order if ticket.state is _QUEUED]
        for ticket in left:
            self._leave(ticket, _WITHDRAWN)
        self._order.clear()
        self._lanes.clear()
        return left

    def _head(self, now: float, dropped: list[TicketT]) -> TicketT | None:
        """The oldest ticket that is still worth running."""
        order = self._order
        while order:
            ticket = order[0]
            if ticket.state is _QUEUED and not self._dead(ticket, now, dropped):
                return ticket
            order.popleft()
            if ticket.key in self._lanes:
                self._shed(ticket.key)
        return None

    def _dead(self, ticket: TicketT, now: float, dropped: list[TicketT]) -> bool:
        if ticket.deadline is not None and ticket.deadline <= now:
            self._leave(ticket, _EXPIRED)
        elif ticket.cancelled():
            self._leave(ticket, _CANCELLED)
        else:
            return False
        dropped.append(ticket)
        return True

    def _leave(self, ticket: TicketT, state: State) -> None:
        ticket.state = state
        self._lanes[ticket.key].rows -= ticket.rows
        self.rows -= ticket.rows
        self.items -= 1

    def _hold_until(self, head: TicketT, lane: _Lane[TicketT], now: float) -> float | None:
        """Until when an incomplete batch should wait for company; None to run it now."""
        until = head.arrived + self._delay
        if until <= now or lane.rows >= self._max_rows:
            return None
        if head.deadline is not None and head.deadline <= until:
            return None  # waiting would cost the answer
        if self.items > 1 or (self._last_items > 1 and head.arrived - self._last_end < self._delay):
            return until
        return None

    def _shed(self, key: Hashable) -> None:
        """Drops the husks at a lane's front, and the lane with its last ticket."""
        tickets = self._lanes[key].tickets
        while tickets and tickets[0].state is not _QUEUED:
            tickets.popleft()
        if not tickets:
            del self._lanes[key]

    def _trim(self) -> None:
        """Drops husks: those at the front always, all of them once they outnumber the living."""
        order = self._order
        while order and order[0].state is not _QUEUED:
            order.popleft()
        if len(order) > 2 * self.items + _MIN_HUSKS:
            self._order = deque(ticket for ticket in order if ticket.state is _QUEUED)
            for key, lane in list(self._lanes.items()):
                lane.tickets = deque(ticket for ticket in lane.tickets if ticket.state is _QUEUED)
                if not lane.tickets:
                    del self._lanes[key]
