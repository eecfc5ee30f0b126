"""The batching decision, pure: what waits, what runs next, what is dropped. No threads, no event loop, no
clock.

`BatchQueue` holds tickets by priority, by key and in arrival order (`lanes`). Only tickets of one key can share a
batch (same shapes and dtypes, say). `take(now)` answers with the next batch: the key of the oldest ticket of the
highest priority, from its head on, up to `max_batch_size` rows; room that is left goes to tickets of that key of
lower priorities. So order is FIFO within a key and a priority, and no key starves. Neither does a priority: once
its oldest has waited for `starvation_ms`, every `_AGED_TURN`th batch is formed from it.

Rows are the unit of both bounds. The time of a model run grows with rows, not with requests, and memory does
too.

What runs take is learned from them (`cost`), and used three times:
- A ticket whose deadline comes sooner than any run could end is refused, and dropped when that comes to pass in the
  queue.
- A ticket that those before it would make late is refused as well: its answer would cost a run and be thrown away.
  The queue is thereby bounded in time, and under overload nearly all that runs is answered in time.
- An incomplete batch is held for callers who are about to return (`company`).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic

from libs.serving.batch_policy import BatchPolicy
from libs.serving.company import Company
from libs.serving.cost import CallCost
from libs.serving.errors import InvalidArgument, ResourceExhausted
from libs.serving.lanes import QUEUED, Level, State, Ticket, TicketT

__all__ = ["BatchPolicy", "BatchQueue", "State", "Take", "Ticket"]

# While a priority starves, it gets one batch of so many: its wait is bounded, and those above it keep three quarters
# of the model.
_AGED_TURN = 4
# Runs vary: what has so much more time than a run is expected to take is expected to be in time. In the simulation of
# overload 1.0 makes 3 to 5 % of the answers late, and more than 1.2 gains nothing.
_CAUTION = 1.2
# For so long the outlook of a deadline is taken to be what it was, at least: looking costs more than queueing.
_SAFE_S = 0.001
_NEVER = float("inf")
_TAKEN, _EXPIRED, _CANCELLED = State.TAKEN, State.EXPIRED, State.CANCELLED  # an enum attribute costs a lookup
_priority, _arrived = attrgetter("priority"), attrgetter("arrived")


@dataclass(slots=True, eq=False)
class Take(Generic[TicketT]):
    """Answer of `BatchQueue.take`.

    Attributes:
        batch: tickets of one key to run now, in order of arrival; empty when nothing should run yet.
        rows: of the batch together.
        dropped: tickets found EXPIRED or CANCELLED on the way; they never run.
        wake_at: when to ask again if `wakes` does not say so before; None if there is nothing to wait for.
        started: when it was taken.
    """

    batch: list[TicketT]
    rows: int
    dropped: list[TicketT]
    wake_at: float | None
    started: float


class BatchQueue(Generic[TicketT]):
    """Bounded queue that forms batches; see the module's text. Not thread safe: the shell holds a lock around
    it.

    Args:
        policy: bounds.
        threads: batches that may run at a time.
        limit: most rows of a batch that such a ticket is in, where they are fewer than the policy's.

    Attributes:
        items: tickets that wait.
        rows: of them together.
        wakes: whether a ticket that was just offered is a reason to take; else whoever got `wake_at` will.
        cost: what runs take.
    """

    def __init__(
        self, policy: BatchPolicy, threads: int = 1, limit: Callable[[TicketT], int] | None = None
    ) -> None:
        self._max_rows = policy.max_batch_size
        self._limit_of = limit
        self._bound = policy.max_queue_rows
        self._preferred = sorted(policy.preferred_batch_sizes, reverse=True)
        self._full_rows = self._preferred[0] if self._preferred else self._max_rows
        self._starvation_s = policy.starvation_ms / 1e3
        self._threads = threads
        self._levels: list[Level[TicketT]] = [Level(0)]  # ascending: the highest priority first
        self._by_priority = {0: self._levels[0]}
        self._passed_over = 0
        self._runs: list[Take[TicketT]] = []  # those going on
        self._last_rows = 0  # of the run that ended last
        self._company: Company | None = None
        if policy.max_delay_ms != 0:
            self._company = Company(_NEVER if policy.max_delay_ms is None else policy.max_delay_ms / 1e3)
        # What the last look at a deadline found: while no more rows wait and until then, one as late is fine too.
        self._safe_deadline = self._safe_until = self._safe_least_s = 0.0
        self._safe_rows = self._safe_priority = 0
        self._arrivals = 0
        self._held_for = 0  # items; 0: nothing is held
        self._held_late = 0.0  # a deadline before ends the hold
        self._soonest = _NEVER  # no ticket that waits has a deadline before
        self.cost = CallCost()
        self.items = 0
        self.rows = 0
        self.wakes = True

    def offer(self, ticket: TicketT, now: float) -> Sequence[TicketT]:
        """Queues a ticket; answers those that were SHED to make room for it.

        Raises:
            InvalidArgument: its rows are below 1 or above max_batch_size.
            DeadlineExceeded: its deadline has passed, or comes before any run could end.
            ResourceExhausted: the queue has no room for its rows, or what waits would make it late.
        """
        rows = ticket.rows
        if not 1 <= rows <= self._max_rows:
            raise InvalidArgument(
                f"the request has {rows} rows: expected 1 to {self._max_rows} (max batch size)"
            )
        deadline = ticket.deadline
        if deadline is not None:
            if (
                deadline >= self._safe_deadline
                and self.rows < self._safe_rows
                and now < self._safe_until
                and ticket.priority == self._safe_priority
            ):
                ticket.start_by = deadline - self._safe_least_s
            else:
                self._admit(ticket, deadline, now)
        shed: Sequence[TicketT] = ()
        if self.rows + rows > self._bound:
            shed = self._make_room(ticket)
        ticket.arrived = now
        level = self._by_priority.get(ticket.priority)
        if level is None:
            level = self._by_priority[ticket.priority] = Level(ticket.priority)
            insort(self._levels, level, key=_priority)
        level.add(ticket)
        self.rows += rows
        self.items += 1
        self._arrivals += 1
        if deadline is not None and deadline < self._soonest:
            self._soonest = deadline
        if self._held_for:
            self.wakes = self.items >= self._held_for or self._soonest <= self._held_late
        return shed

    def take(self, now: float) -> Take[TicketT]:
        """Removes and answers the next batch to run, dropping the expired and the cancelled that it meets."""
        batch: list[TicketT] = []
        dropped: list[TicketT] = []
        self._held_for = 0
        self.wakes = True
        head = self._head(now, dropped)
        if head is None:
            self._soonest = _NEVER
            return Take(batch, 0, dropped, None, now)
        key = head.key
        levels = self._levels
        waiting = levels[0].lanes[key].rows if len(levels) == 1 else 0
        if not waiting:
            own = self._by_priority[head.priority]
            levels = [own, *(level for level in levels if level is not own and key in level.lanes)]
            waiting = sum([level.lanes[key].rows for level in levels])
        wake_at = self._hold(waiting, now)
        if wake_at is not None:
            return Take(batch, 0, dropped, wake_at, now)
        room = self._limit(waiting, now)
        if self._limit_of is not None:
            room = min(room, self._limit_of(head))
        room = max(room, head.rows)
        spare = waiting - room
        due = self._due(room, now) if spare > 0 else 0.0
        rows, soonest = 0, _NEVER
        for level in levels:
            tickets = level.lanes[key].tickets
            rows_before, items_before = rows, len(batch)
            while tickets:
                ticket = tickets[0]
                if ticket.state is QUEUED and not self._dead(level, ticket, now, dropped):
                    deadline = ticket.deadline
                    if deadline is not None and deadline < soonest:
                        if spare > 0 and deadline < due:
                            spare -= ticket.rows
                            self._leave(level, ticket, _EXPIRED)
                            dropped.append(ticket)
                            tickets.popleft()
                            continue
                        soonest = deadline
                        room = min(room, self._room(rows + ticket.rows, deadline, now))
                    if rows + ticket.rows > room:
                        break
                    rows += ticket.rows
                    ticket.state = _TAKEN
                    batch.append(ticket)
                tickets.popleft()
            level.took(key, len(batch) - items_before, rows - rows_before)
            if tickets:
                break
        self.items -= len(batch)
        self.rows -= rows
        if not batch:  # whoever was there has just left
            take = self.take(now)
            take.dropped[:0] = dropped
            return take
        if len(self._levels) > 1:
            batch.sort(key=_arrived)
            self._drop_empty_levels()
        if not self.items:
            self._soonest = _NEVER
        if self._company is not None:
            self._company.taken(batch)
        take = Take(batch, rows, dropped, None, now)
        self._runs.append(take)
        return take

    def finished(self, take: Take[TicketT], now: float, *, failed: bool = False) -> None:
        """Reports that a taken batch's run has ended. What a failed one took is not remembered."""
        self._runs.remove(take)
        self._last_rows = take.rows
        self._safe_until = 0.0
        if not failed:
            self.cost.observe(now - take.started, take.rows, now)
        if self._company is not None:
            self._company.ended(len(take.batch), self.cost.base_s, self._arrivals, now)

    def withdraw(self, ticket: TicketT) -> bool:
        """Takes a ticket out whose caller wants no answer any more; False if it is not queued (running or
        done)."""
        if ticket.state is not QUEUED:
            return False
        level = self._by_priority[ticket.priority]
        self._leave(level, ticket, State.WITHDRAWN)
        level.tidy(ticket.key)
        return True

    def drain(self) -> list[TicketT]:
        """Withdraws every queued ticket, oldest first within a priority."""
        left = [ticket for level in self._levels for ticket in level.drain(State.WITHDRAWN)]
        self.items = self.rows = 0
        return left

    def _admit(self, ticket: TicketT, deadline: float, now: float) -> None:
        """Sets when the ticket must start; raises if it is not expected to be answered by its deadline."""
        cost = self.cost
        ticket.start_by = start_by = cost.start_by(deadline, now)
        busy_s = 0.0
        if len(self._runs) == self._threads:
            # A run that is overdue is expected to take as long again as it is late.
            busy_s = min([abs(run.started + cost.typical(run.rows) - now) for run in self._runs])
        elif not self.items:
            return
        ahead, lanes = 0, 0
        for level in self._levels:
            if level.priority <= ticket.priority:
                ahead += level.rows
                lanes += len(level.lanes)
        # Full batches go before it, but at least one of each other key; its own is as large as the last, or more.
        full = self._full_rows
        runs = max(ahead // full, lanes - 1)
        before = min(runs * full, ahead)
        own = min(max(ahead - before + ticket.rows, self._last_rows), full)
        finish = now + busy_s + _CAUTION * cost.typical(own)
        if before:
            finish += (runs * cost.base_s + before * cost.row_s) / self._threads
        if finish > deadline and start_by < deadline:
            raise ResourceExhausted(
                f"the queue is too long: an answer would take {(finish - now) * 1e3:.0f} ms and the deadline is in "
                f"{(deadline - now) * 1e3:.0f} ms"
            )
        self._safe_deadline = finish + cost.typical(full)
        self._safe_rows = self.rows - self.rows % full + full
        self._safe_until = now + max(busy_s, _SAFE_S)
        self._safe_least_s = deadline - start_by
        self._safe_priority = ticket.priority

    def _make_room(self, ticket: TicketT) -> list[TicketT]:
        """Sheds the newest of the lowest priorities until the ticket fits."""
        lower = [level for level in reversed(self._levels) if level.priority > ticket.priority]
        missing = self.rows + ticket.rows - self._bound
        if sum([level.rows for level in lower]) < missing:
            raise ResourceExhausted(
                f"the queue is full: {self.rows} of {self._bound} rows wait, {ticket.rows} more do not fit"
            )
        shed: list[TicketT] = []
        for level in lower:
            while missing > 0 and (newest := level.newest()) is not None:
                self._leave(level, newest, State.SHED)
                level.tidy(newest.key)
                missing -= newest.rows
                shed.append(newest)
        return shed

    def _head(self, now: float, dropped: list[TicketT]) -> TicketT | None:
        """The ticket that decides the next batch's key."""
        first = aged = None
        for level in self._levels:
            head = self._oldest(level, now, dropped)
            if head is None:
                continue
            if first is None:
                first = head
            elif head.arrived + self._starvation_s <= now and (aged is None or head.arrived < aged.arrived):
                aged = head
        if aged is None:
            self._passed_over = 0
            return first
        self._passed_over = (self._passed_over + 1) % _AGED_TURN
        return first if self._passed_over else aged

    def _oldest(self, level: Level[TicketT], now: float, dropped: list[TicketT]) -> TicketT | None:
        while (ticket := level.oldest()) is not None and self._dead(level, ticket, now, dropped):
            level.tidy(ticket.key)
        return ticket

    def _dead(self, level: Level[TicketT], ticket: TicketT, now: float, dropped: list[TicketT]) -> bool:
        if ticket.start_by <= now:
            self._leave(level, ticket, _EXPIRED)
        elif ticket.cancelled():
            self._leave(level, ticket, _CANCELLED)
        else:
            return False
        dropped.append(ticket)
        return True

    def _leave(self, level: Level[TicketT], ticket: TicketT, state: State) -> None:
        level.leave(ticket, state)
        self.rows -= ticket.rows
        self.items -= 1

    def _drop_empty_levels(self) -> None:
        for level in [level for level in self._levels if not level.items and level.priority]:
            self._levels.remove(level)
            del self._by_priority[level.priority]

    def _hold(self, waiting: int, now: float) -> float | None:
        """Until when the batch, of so many rows, is held for company; None to run it now."""
        if self._company is None or waiting >= self._max_rows:
            return None
        held = self._company.hold(self.items, self._arrivals, now)
        if held is None:
            return None
        until, items = held
        late = until + _CAUTION * self.cost.typical(min(waiting * items // self.items, self._max_rows))
        if self._soonest <= late:
            return None  # waiting would cost an answer
        self._held_for, self._held_late = items, late
        self.wakes = False
        return until

    def _due(self, limit: int, now: float) -> float:
        """Where more wait than the batch holds, nobody gets a place whose deadline is before this: most likely, the
        answer would be late."""
        return now + _CAUTION * self.cost.typical(limit)

    def _room(self, rows: int, deadline: float, now: float) -> int:
        """Most rows of a batch that holds a ticket of this deadline; with as many rows as are given, it has a place."""
        spare_s = (deadline - now) / _CAUTION - self.cost.typical(rows)
        if spare_s < 0 or not self.cost.row_s:
            return self._max_rows  # late anyhow, or not for the number of rows
        return rows + min(int(spare_s / self.cost.row_s), self._max_rows)

    def _limit(self, waiting: int, now: float) -> int:
        """Most rows of the batch, of so many that wait."""
        for size in self._preferred:
            if size == waiting:
                return size
            if size < waiting:
                left_over = self.cost.typical(size) + self.cost.typical(min(waiting - size, self._max_rows))
                return size if now + _CAUTION * left_over < self._soonest else self._max_rows
        return self._max_rows
