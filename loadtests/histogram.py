"""Response times as counts in buckets that grow by 2 %, and a measured phase as one second after another: pure.

Locust's own statistics round times to milliseconds, which is coarse where a call takes one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GROWTH = 1.02
_LOG = math.log(GROWTH)


@dataclass
class Histogram:
    """Counts by bucket. Bucket n holds times of about GROWTH**n microseconds, to 1 % on either side."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float) -> None:
        self.counts[round(math.log(max(seconds * 1e6, 1.0)) / _LOG)] += 1

    def merge(self, other: Histogram) -> None:
        self.counts.update(other.counts)

    @property
    def total(self) -> int:
        return self.counts.total()

    def percentile(self, share: float) -> float:
        """Milliseconds that this share of the times does not exceed; 0 of none."""
        left = share * self.total
        for bucket, count in sorted(self.counts.items()):
            left -= count
            if left <= 1e-9:
                return float(GROWTH**bucket / 1e3)
        return 0.0


@dataclass
class Second:
    """What was due in one second of a phase."""

    times: Histogram = field(default_factory=Histogram)
    failures: Counter[str] = field(default_factory=Counter)  # by gRPC status


@dataclass
class Series:
    """One scenario in one phase of a run."""

    seconds: dict[int, Second] = field(default_factory=dict)

    def add(self, at: int, took_s: float, failure: str | None) -> None:
        """A call that was due in second `at`, with a gRPC status other than OK if it failed."""
        second = self.seconds.setdefault(at, Second())
        if failure is None:
            second.times.add(took_s)
        else:
            second.failures[failure] += 1

    def merge(self, other: Series) -> None:
        for at, theirs in other.seconds.items():
            ours = self.seconds.setdefault(at, Second())
            ours.times.merge(theirs.times)
            ours.failures.update(theirs.failures)

    @property
    def times(self) -> Histogram:
        whole = Histogram()
        for second in self.seconds.values():
            whole.merge(second.times)
        return whole

    @property
    def failures(self) -> Counter[str]:
        whole: Counter[str] = Counter()
        for second in self.seconds.values():
            whole.update(second.failures)
        return whole

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            str(at): {"times": {str(b): n for b, n in s.times.counts.items()}, "failures": dict(s.failures)}
            for at, s in sorted(self.seconds.items())
        }

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Series:
        """What was dumped."""
        series = cls()
        for at, second in data.items():
            times = Histogram(Counter({int(bucket): int(count) for bucket, count in second["times"].items()}))
            series.seconds[int(at)] = Second(times, Counter(second["failures"]))
        return series
