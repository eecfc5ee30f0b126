from __future__ import annotations

import pytest

from benchmarks import episodes
from benchmarks.episodes import Sample
from benchmarks.openloop import Call


def samples(*counts: tuple[float, int, int]) -> list[Sample]:
    return [Sample(at, {"a": a, "b": b}) for at, a, b in counts]


def test_success_is_the_share_of_calls_answered_ok() -> None:
    calls = [Call(0.0, 0.1, "OK")] * 3 + [Call(1.0, 0.1, "INTERNAL")]
    assert episodes.success(calls) == 0.75
    assert episodes.success(episodes.between(calls, 0.0, 1.0)) == 1.0
    assert episodes.success([]) == 1.0


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert episodes.percentile(values, 0.5) == 50.0
    assert episodes.percentile(values, 0.99) == 99.0
    assert episodes.percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        episodes.percentile([], 0.5)


def test_a_share_is_of_the_calls_of_a_window() -> None:
    taken = samples((0.0, 0, 0), (0.5, 10, 10), (1.0, 10, 30), (1.5, 10, 60))
    assert episodes.shares(taken, "a") == [(0.0, 0.25), (0.5, 0.0)]


def test_an_instance_that_was_removed_and_came_back_counts_from_zero() -> None:
    taken = [Sample(0.0, {"a": 100, "b": 100}), Sample(1.0, {"b": 130}), Sample(2.0, {"a": 10, "b": 160})]
    assert episodes.shares(taken, "a") == [(0.0, 0.0), (1.0, 0.25)]
    taken = [Sample(0.0, {"a": 100, "b": 100}), Sample(1.0, {"a": 10, "b": 130})]
    assert episodes.shares(taken, "a") == [(0.0, 0.25)]


def test_shed_and_recovered_are_the_first_windows_from_then_on() -> None:
    shares = [(0.0, 0.01), (1.0, 0.3), (2.0, 0.1), (3.0, 0.0), (4.0, 0.3)]
    assert episodes.first_window(shares, 1.0, 0.02) == 2.0
    assert episodes.first_window_above(shares, 2.0, 0.25) == 2.0
    assert episodes.first_window(shares, 5.0, 0.02) is None


def test_reasons_are_counted_the_commonest_first() -> None:
    calls = [Call(0, 0, "OK"), Call(0, 0, "INTERNAL"), Call(0, 0, "UNAVAILABLE"), Call(0, 0, "UNAVAILABLE")]
    assert episodes.reasons(calls) == "2 UNAVAILABLE, 1 INTERNAL"
    assert episodes.reasons(calls[:1]) == "-"
