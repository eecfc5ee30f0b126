"""Instances of a model: how long they take, and what goes wrong with them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libs.balancing.simulator.loop import Loop

Outcome = Callable[
    ["Attempt", bool, bool], None
]  # the attempt, whether it succeeded, whether it may be retried


@dataclass(slots=True, eq=False)
class Attempt:
    """A call at a replica. `dropped` once nobody waits for it: a queued one is then not started."""

    work_s: float  # at speed 1
    ended: Outcome
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a replica from `begin_s` until `end_s`. Several may hold at once."""

    begin_s: float
    end_s: float
    slowdown: float = 1.0  # times the work
    delay_s: float = 0.0  # more of every call
    stalled: bool = False  # connections stand, nothing answers
    refused: bool = False  # the process is gone: callers know at once and may retry
    failing: float = 0.0  # the share of calls that it answers at once with an error
    cold_calls: int = 0  # after it, so many calls are slow, the first ten times and less and less

    def holds(self, now_s: float) -> bool:
        return self.begin_s <= now_s < self.end_s


REFUSED_S = 0.0005  # to an answer without work
_COLD = 10.0


class Replica:
    """Works `slots` calls off at a time, others wait in line; 0 slots is as many as come."""

    def __init__(
        self,
        loop: Loop,
        rng: random.Random,
        *,
        speed: float = 1.0,
        slots: int = 4,
        faults: Sequence[Fault] = (),
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._speed = speed
        self._slots = slots
        self._faults = faults
        self._busy = 0
        self._queue: deque[Attempt] = deque()
        self._cold_left = 0
        for fault in faults:
            loop.at(fault.end_s, self._over, fault)

    @property
    def refusing(self) -> bool:
        return any(fault.refused and fault.holds(self._loop.now_s) for fault in self._faults)

    def submit(self, attempt: Attempt) -> None:
        now_s = self._loop.now_s
        for fault in self._faults:
            if fault.begin_s <= now_s < fault.end_s:
                if fault.refused:
                    self._loop.at(now_s + REFUSED_S, attempt.ended, attempt, False, True)
                    return
                if fault.failing and self._rng.random() < fault.failing:
                    self._loop.at(now_s + REFUSED_S, attempt.ended, attempt, False, False)
                    return
        self._queue.append(attempt)
        self._start()

    def _start(self) -> None:
        while self._queue and (self._slots == 0 or self._busy < self._slots):
            if self._stalled():
                return
            attempt = self._queue.popleft()
            if attempt.dropped:
                continue
            self._busy += 1
            self._loop.at(self._loop.now_s + self._takes(attempt.work_s), self._end, attempt)

    def _end(self, attempt: Attempt) -> None:
        until_s = self._stalled()
        if until_s:
            self._loop.at(until_s, self._end, attempt)
            return
        self._busy -= 1
        attempt.ended(attempt, True, False)
        self._start()

    def _takes(self, work_s: float) -> float:
        takes_s, now_s = work_s / self._speed, self._loop.now_s
        delay_s = 0.0
        for fault in self._faults:
            if fault.begin_s <= now_s < fault.end_s:
                takes_s *= fault.slowdown
                delay_s += fault.delay_s
        if self._cold_left:
            takes_s *= 1 + (_COLD - 1) * self._cold_left / max(f.cold_calls for f in self._faults)
            self._cold_left -= 1
        return takes_s + delay_s

    def _stalled(self) -> float:
        """Until when, 0 if it is not."""
        return max((f.end_s for f in self._faults if f.stalled and f.holds(self._loop.now_s)), default=0.0)

    def _over(self, fault: Fault) -> None:
        self._cold_left = max(self._cold_left, fault.cold_calls)
        self._start()


class BatchReplica(Replica):
    """Works off all that waits at once, up to `most` calls: a batch takes `fixed_s` and the calls' own work. What
    comes meanwhile waits for the next.
    """

    def __init__(
        self,
        loop: Loop,
        rng: random.Random,
        *,
        fixed_s: float,
        most: int,
        speed: float = 1.0,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(loop, rng, speed=speed, faults=faults)
        self._fixed_s = fixed_s
        self._most = most

    def _start(self) -> None:
        if self._busy or self._stalled():
            return
        batch: list[Attempt] = []
        while self._queue and len(batch) < self._most:
            attempt = self._queue.popleft()
            if not attempt.dropped:
                batch.append(attempt)
        if batch:
            self._busy = 1
            takes_s = self._takes(self._fixed_s + sum(attempt.work_s for attempt in batch))
            self._loop.at(self._loop.now_s + takes_s, self._end_batch, batch)

    def _end_batch(self, batch: list[Attempt]) -> None:
        until_s = self._stalled()
        if until_s:
            self._loop.at(until_s, self._end_batch, batch)
            return
        self._busy = 0
        for attempt in batch:
            attempt.ended(attempt, True, False)
        self._start()
