from __future__ import annotations

import random

import pytest

from loadtests.histogram import GROWTH, Histogram, Series


def test_percentiles_are_right_to_a_bucket() -> None:
    rng = random.Random(1)
    times = sorted(rng.lognormvariate(-6, 1) for _ in range(10_000))
    histogram = Histogram()
    for time in times:
        histogram.add(time)
    for share in (0.5, 0.95, 0.99, 1.0):
        exact = times[int(share * len(times)) - 1] * 1e3
        assert histogram.percentile(share) == pytest.approx(exact, rel=GROWTH - 1)
    assert histogram.total == len(times)


def test_nothing_has_no_percentile() -> None:
    assert Histogram().percentile(0.5) == 0.0


def test_times_of_nothing_and_of_hours() -> None:
    histogram = Histogram()
    histogram.add(0.0)
    histogram.add(10_000.0)
    assert histogram.percentile(0.5) == pytest.approx(0.001)
    assert histogram.percentile(1.0) == pytest.approx(1e7, rel=0.02)


def test_a_series_survives_the_file_and_merges() -> None:
    series = Series()
    series.add(0, 0.001, None)
    series.add(3, 0.002, None)
    series.add(3, 0.5, "UNAVAILABLE")
    again = Series.load(series.dump())
    assert again.dump() == series.dump()
    again.merge(series)
    assert again.times.total == 4
    assert again.failures == {"UNAVAILABLE": 2}
