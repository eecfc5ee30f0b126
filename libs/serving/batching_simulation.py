"""Batching without a model: a batch queue under simulated traffic. `batching_report` makes tables of it.

A discrete-event simulation with a seed: the queue is the real one, arrivals and run times are drawn. It answers what
a policy costs and gains, where a machine would answer how busy its neighbours are.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from libs.serving.batching import BatchPolicy, BatchQueue, Take, Ticket
from libs.serving.errors import ServingError
from libs.serving.lanes import Level, State

# Between two answers on the event loop, and two requests: what one costs it.
_LOOP_S = 40e-6
# A caller's way back: answer, think, request. Mostly short, now and then a slow one.
_RETURN_S = 300e-6
# Run times vary by so much (log-normal).
_NOISE = 0.1


@dataclass(frozen=True)
class Model:
    """Run times: row_s * rows + base_s."""

    name: str
    row_s: float
    base_s: float
    max_batch_size: int = 64

    def seconds(self, rows: int, random_: random.Random) -> float:
        """How long one run takes."""
        return (self.row_s * rows + self.base_s) * random_.lognormvariate(0, _NOISE)

    @property
    def capacity(self) -> float:
        """Rows a second in full batches."""
        return self.max_batch_size / (self.row_s * self.max_batch_size + self.base_s)


class Queue(Protocol):
    """What a simulation drives; `BatchQueue` is one."""

    wakes: bool

    def offer(self, ticket: Ticket[int], now: float) -> object:
        """See `BatchQueue`."""

    def take(self, now: float) -> Take[Ticket[int]]:
        """See `BatchQueue`."""

    def finished(self, take: Take[Ticket[int]], now: float) -> None:
        """See `BatchQueue`."""


class FixedDelay(BatchQueue[Ticket[int]]):
    """Holds every incomplete batch until its oldest has waited for a fixed time, as is common elsewhere."""

    def __init__(self, policy: BatchPolicy, delay_s: float) -> None:
        super().__init__(policy)
        self._delay_s = delay_s

    def _hold(self, waiting: int, now: float) -> float | None:
        oldest = self._levels[0].oldest()
        assert oldest is not None
        until = oldest.arrived + self._delay_s
        if waiting >= self._max_rows or until <= now:
            return None
        self._held_for, self._held_late, self.wakes = self._max_rows, 0.0, False
        return until


class RowsOnly(BatchQueue[Ticket[int]]):
    """Knows no time: bounded by rows, and drops what has expired when it would run."""

    def _admit(self, ticket: Ticket[int], deadline: float, now: float) -> None:
        ticket.start_by = deadline

    def _due(self, limit: int, now: float) -> float:
        return 0.0

    def _room(self, rows: int, deadline: float, now: float) -> int:
        return self._max_rows


class LeastOnly(RowsOnly):
    """Drops what no run could answer in time any more, but does not look ahead."""

    def _admit(self, ticket: Ticket[int], deadline: float, now: float) -> None:
        ticket.start_by = self.cost.start_by(deadline, now)


class NewestFirst(LeastOnly):
    """As that, but the newest run first. For tickets of one row, one key and one priority."""

    def take(self, now: float) -> Take[Ticket[int]]:
        """See `BatchQueue`; what is not among the newest is put aside meanwhile."""
        level = self._levels[0]
        waiting = level.drain(State.QUEUED)
        self.items = self.rows = 0
        dropped: list[Ticket[int]] = [ticket for ticket in waiting if ticket.start_by <= now]
        alive = [ticket for ticket in waiting if ticket.start_by > now]
        aside, newest = alive[: -self._max_rows], alive[-self._max_rows :]
        for ticket in newest:
            self._put(level, ticket)
        take = super().take(now)
        for ticket in aside:
            self._put(level, ticket)
        take.dropped += dropped
        return take

    def _put(self, level: Level[Ticket[int]], ticket: Ticket[int]) -> None:
        level.add(ticket)
        self.items += 1
        self.rows += 1


@dataclass
class Outcome:
    """What became of the requests after the warm-up.

    Attributes:
        seconds: of the measured time.
        latencies_s: of those answered, ascending.
        in_time: answered by their deadline.
        refused: at once.
        dropped: from the queue.
        runs: batches.
        busy_s: of the model.
    """

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    in_time: int = 0
    refused: int = 0
    dropped: int = 0
    runs: int = 0
    busy_s: float = 0.0

    def quantile_ms(self, share: float) -> float:
        """Latency that so large a share of the answers does not exceed."""
        if not self.latencies_s:
            return math.nan
        return 1e3 * self.latencies_s[min(int(share * len(self.latencies_s)), len(self.latencies_s) - 1)]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / self.seconds

    @property
    def goodput(self) -> float:
        """Answers in time a second."""
        return self.in_time / self.seconds

    @property
    def busy_ms_per_request(self) -> float:
        """Model time an answer."""
        return 1e3 * self.busy_s / max(1, len(self.latencies_s))


Arrivals = Callable[[random.Random], float]
"""Seconds until the next request of an open loop."""


def poisson(rate: float) -> Arrivals:
    """Strangers, independent of each other."""
    return lambda random_: random_.expovariate(rate)


def bursts(rate: float, size: int) -> Arrivals:
    """So many at a time, one after the other as fast as the loop takes them."""
    left = 0

    def gap(random_: random.Random) -> float:
        nonlocal left
        left = (left or size) - 1
        return _LOOP_S if left else random_.expovariate(rate / size)

    return gap


def simulate(
    queue: Queue,
    model: Model,
    *,
    seconds: float,
    arrivals: Arrivals | None = None,
    callers: int = 0,
    deadline_s: float | None = None,
    warm_up: float = 0.2,
    seed: int = 1,
) -> Outcome:
    """Runs one queue under an open loop (`arrivals`) or a closed one (`callers`), one model thread. The
    first `warm_up` of the time is not counted."""
    random_ = random.Random(seed)
    warm = warm_up * seconds
    outcome = Outcome(seconds - warm)
    events: list[tuple[float, int, str, Any]] = []
    count = 0

    def at(time: float, what: str, thing: Any = None) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (time, count, what, thing))

    running = False
    alarm = 0

    def serve(now: float) -> None:
        nonlocal running, alarm
        take = queue.take(now)
        alarm += 1
        for ticket in take.dropped:
            outcome.dropped += ticket.arrived >= warm
            if callers:
                at(now + _RETURN_S, "request")
        if take.batch:
            running = True
            at(now + model.seconds(take.rows, random_), "end", take)
        elif take.wake_at is not None:
            at(take.wake_at, "alarm", alarm)

    def ended(take: Take[Ticket[int]], now: float) -> None:
        nonlocal running
        running = False
        queue.finished(take, now)
        if now >= warm:
            outcome.runs += 1
            outcome.busy_s += now - take.started
        for place, ticket in enumerate(take.batch):
            answered = now + place * _LOOP_S
            if ticket.arrived >= warm:
                outcome.latencies_s.append(answered - ticket.arrived)
                outcome.in_time += ticket.deadline is None or answered <= ticket.deadline
            if callers:
                at(answered + random_.expovariate(1 / _RETURN_S), "request")
        serve(now)

    def request(now: float) -> None:
        ticket: Ticket[int] = Ticket(0, 1, None, None if deadline_s is None else now + deadline_s)
        try:
            queue.offer(ticket, now)
        except ServingError:
            outcome.refused += now >= warm
            if callers:
                at(now + _RETURN_S, "request")
            return
        if not running and queue.wakes:
            serve(now)

    for number in range(callers):
        at(number * _LOOP_S, "request")
    if arrivals is not None:
        at(arrivals(random_), "arrival")
    while events:
        now, _, what, thing = heapq.heappop(events)
        if now > seconds:
            break
        if what == "end":
            ended(thing, now)
        elif what == "request":
            request(now)
        elif what == "arrival":
            assert arrivals is not None
            request(now)
            at(now + arrivals(random_), "arrival")
        elif thing == alarm and not running:
            serve(now)
    outcome.latencies_s.sort()
    return outcome
