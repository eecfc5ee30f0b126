"""What a fault did to the calls and to its instance's share of them. Pure: times and counts in, figures out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.openloop import Call

WINDOW_S = 1.0  # over which a share of the calls is taken
SHED_BELOW = 0.02
RECOVERED_ABOVE = 0.25  # of three instances: three quarters of an equal share


@dataclass(frozen=True, slots=True)
class Sample:
    """How many calls each instance had been sent since the gateway began, at one moment (time.monotonic)."""

    at_s: float
    sent: Mapping[str, int]


def between(calls: Iterable[Call], begin_s: float, end_s: float) -> list[Call]:
    """The calls that were due in [begin, end)."""
    return [call for call in calls if begin_s <= call.due_s < end_s]


def success(calls: Sequence[Call]) -> float:
    """The share of calls that were answered OK, 0 to 1; 1 when there were none."""
    return sum(call.ok for call in calls) / len(calls) if calls else 1.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed. Raises ValueError on no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 10_000) * len(ordered) // 10_000) - 1)]


def shares(samples: Sequence[Sample], instance: str) -> list[tuple[float, float]]:
    """The instance's share of all calls over each window, with the time at which the window begins.

    A count that fell belongs to an instance that was removed and came back: it counts from zero.
    """
    found = []
    end = 0
    for start, first in enumerate(samples):
        while end < len(samples) and samples[end].at_s < first.at_s + WINDOW_S:
            end += 1
        if end == len(samples):
            break
        grown = {
            name: count - before if count >= before else count
            for name, count in samples[end].sent.items()
            for before in (samples[start].sent.get(name, 0),)
        }
        total = sum(grown.values())
        if total:
            found.append((first.at_s, grown.get(instance, 0) / total))
    return found


def first_window(shares_: Iterable[tuple[float, float]], begin_s: float, below: float) -> float | None:
    """Seconds from `begin_s` to the first window whose share is under `below`; None when there is none."""
    return next((at - begin_s for at, share in shares_ if at >= begin_s and share < below), None)


def first_window_above(shares_: Iterable[tuple[float, float]], begin_s: float, above: float) -> float | None:
    """Seconds from `begin_s` to the first window whose share is over `above`; None when there is none."""
    return next((at - begin_s for at, share in shares_ if at >= begin_s and share > above), None)


def reasons(calls: Iterable[Call]) -> str:
    """Why calls failed, the commonest first: `12 DEADLINE_EXCEEDED, 1 UNAVAILABLE`."""
    counts = Counter(call.status for call in calls if not call.ok)
    return ", ".join(f"{count} {status}" for status, count in counts.most_common()) or "-"
