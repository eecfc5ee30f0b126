"""What the counters were a moment ago, so that rates and quantiles of the last seconds can be told. No I/O; bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.gateway.metrics_counters import BOUNDS_US, NOTHING, REASONS, TaskCounts

SHORT_S, LONG_S = 10.0, 60.0  # the windows that are told
STEP_S = 5.0  # between the points of a plot
POINTS = 60  # five minutes

# Whether a reason speaks against the gateway or the instances, and not against the caller.
_FAULTS = tuple(reason not in ("rate_limited", "caller_left", "denied", "request") for reason in REASONS)

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Window:
    """The calls of one window. Durations are None when there was no call."""

    seconds: float
    calls: int
    failed: int
    faults: int  # failed calls that are not of their callers' making
    p50_s: float | None
    p99_s: float | None
    mean_s: float | None

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds if self.seconds else 0.0

    @property
    def error_ratio(self) -> float:
        return self.failed / self.calls if self.calls else 0.0

    @property
    def fault_ratio(self) -> float:
        return self.faults / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """One step of a plot."""

    rate: float
    error_rate: float
    p99_s: float | None


def window(counts: TaskCounts, seconds: float) -> Window:
    """`counts` is what came in so many seconds."""
    calls, ok = counts.calls, counts.codes[0]
    durations = counts.durations
    return Window(
        seconds,
        calls,
        max(0, calls - ok),
        sum(count for count, blamed in zip(counts.reasons, _FAULTS, strict=True) if blamed),
        quantile(durations, 0.5),
        quantile(durations, 0.99),
        counts.duration_s / calls if calls else None,
    )


def quantile(durations: Sequence[int], share: float) -> float | None:
    """Seconds below which that share of the calls stayed, within the width of a bucket (a quarter of its value); None
    without calls. What is above the last bound counts as the last bound."""
    total = sum(durations)
    if not total:
        return None
    wanted, before = share * total, 0
    for n, count in enumerate(durations):
        if count and before + count >= wanted:
            upper = BOUNDS_US[min(n, len(BOUNDS_US) - 1)]
            lower = BOUNDS_US[n - 1] if n else 0
            inside = (wanted - before) / count
            return (min(lower, upper) + (upper - min(lower, upper)) * inside) / 1e6
        before += count
    return BOUNDS_US[-1] / 1e6


class Past(Generic[_Key, _Value]):
    """Snapshots of counters by age: one a second for SHORT_S, one every STEP_S for LONG_S."""

    def __init__(self) -> None:
        # One more than fits: the oldest is at least as old as the window.
        self._recent: deque[tuple[float, Mapping[_Key, _Value]]] = deque(maxlen=int(SHORT_S) + 2)
        self._older: deque[tuple[float, Mapping[_Key, _Value]]] = deque(maxlen=int(LONG_S / STEP_S) + 2)

    def add(self, now: float, values: Mapping[_Key, _Value]) -> bool:
        """Keeps a snapshot; True when it is one of those every STEP_S."""
        self._recent.append((now, values))
        # A tick that comes a little early must not wait for the next.
        if self._older and now - self._older[-1][0] < STEP_S - 0.5:
            return False
        self._older.append((now, values))
        return True

    def at(self, now: float, age_s: float) -> tuple[float, Mapping[_Key, _Value]] | None:
        """The youngest snapshot of at least that age, else the oldest there is; None before the first."""
        kept = self._recent if age_s <= SHORT_S else self._older
        found = None
        for when, values in kept:
            if found is None or now - when >= age_s - 0.5:
                found = when, values
        return found

    def step_before(self) -> tuple[float, Mapping[_Key, _Value]] | None:
        """The last but one of those every STEP_S."""
        return self._older[-2] if len(self._older) > 1 else None


class History:
    """The tasks' past."""

    def __init__(self) -> None:
        self._past: Past[str, TaskCounts] = Past()
        self._plots: dict[str, deque[Point]] = {}
        self._total: deque[Point] = deque(maxlen=POINTS)

    def tick(self, now: float, tasks: Mapping[str, TaskCounts]) -> None:
        """Once a second. `now` is monotonic."""
        if not self._past.add(now, tasks):
            return
        before = self._past.step_before()
        if before is None:
            return
        seconds = max(0.001, now - before[0])
        for gone in self._plots.keys() - tasks.keys():
            del self._plots[gone]
        total = NOTHING
        for name, counts in tasks.items():
            delta = counts.since(before[1].get(name))
            plot = self._plots.get(name)
            if delta is NOTHING and plot is None:
                continue  # never called since the start of the plot: nothing to draw
            if plot is None:
                plot = self._plots[name] = deque(maxlen=POINTS)
            plot.append(_point(delta, seconds))
            if delta.calls:
                total = total.plus(delta)
        self._total.append(_point(total, seconds))

    def windows(self, now: float, tasks: Mapping[str, TaskCounts]) -> dict[str, tuple[Window, Window]]:
        """Each task's short and long window up to `tasks`, the counts as they are at `now`."""
        found = [self._since(now, age, tasks) for age in (SHORT_S, LONG_S)]
        return {
            name: (
                window(counts.since(found[0][1].get(name)), found[0][0]),
                window(counts.since(found[1][1].get(name)), found[1][0]),
            )
            for name, counts in tasks.items()
        }

    def total(self, now: float, tasks: Mapping[str, TaskCounts]) -> tuple[Window, Window]:
        """All tasks together."""
        return self._sum(now, tasks, SHORT_S), self._sum(now, tasks, LONG_S)

    def plot(self, task: str) -> list[Point]:
        """The last POINTS steps of a task, the oldest first; shorter where it is younger."""
        return list(self._plots.get(task, ()))

    def total_plot(self) -> list[Point]:
        return list(self._total)

    def _since(
        self, now: float, age_s: float, tasks: Mapping[str, TaskCounts]
    ) -> tuple[float, Mapping[str, TaskCounts]]:
        found = self._past.at(now, age_s)
        # Before the first tick nothing is known of when the calls came.
        return (max(0.001, now - found[0]), found[1]) if found else (age_s, tasks)

    def _sum(self, now: float, tasks: Mapping[str, TaskCounts], age_s: float) -> Window:
        seconds, before = self._since(now, age_s, tasks)
        total = NOTHING
        for name, counts in tasks.items():
            delta = counts.since(before.get(name))
            if delta.calls:
                total = total.plus(delta)
        return window(total, seconds)


def _point(delta: TaskCounts, seconds: float) -> Point:
    failed = delta.calls - delta.codes[0]
    return Point(delta.calls / seconds, max(0, failed) / seconds, quantile(delta.durations, 0.99))
