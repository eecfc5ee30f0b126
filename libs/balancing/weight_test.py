from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.balancing.weight import DynamicWeight


def test_failures_halve_down_to_one() -> None:
    weight = DynamicWeight(100)
    seen = []
    for _ in range(8):
        weight.failed()
        seen.append(weight.effective)
    assert seen == [50, 25, 12, 6, 3, 1, 1, 1]


def test_successes_close_half_of_the_gap_up_to_the_weight() -> None:
    weight = DynamicWeight(100)
    weight.effective = 1
    seen = []
    for _ in range(8):
        weight.succeeded()
        seen.append(weight.effective)
    assert seen == [51, 76, 88, 94, 97, 99, 100, 100]


@given(st.integers(1, 1000), st.lists(st.booleans(), max_size=50))
def test_the_weight_stays_between_one_and_its_maximum(maximum: int, outcomes: list[bool]) -> None:
    weight = DynamicWeight(maximum)
    for ok in outcomes:
        before = weight.effective
        if ok:
            weight.succeeded()
            assert before <= weight.effective <= maximum
        else:
            weight.failed()
            assert 1 <= weight.effective <= before


def replay(maximum: int, successes: int, failures: int) -> int:
    """The window call by call, failures spread evenly."""
    weight, total, done = DynamicWeight(maximum), successes + failures, 0
    done = total // 2
    for _ in range(total):
        before = done // total
        done += failures
        if done // total > before:
            weight.failed()
        else:
            weight.succeeded()
    return weight.effective


@given(st.integers(1, 200), st.integers(0, 300), st.integers(0, 300))
def test_a_window_ends_where_its_calls_one_by_one_would(maximum: int, successes: int, failures: int) -> None:
    weight = DynamicWeight(maximum)
    weight.observe(successes, failures)
    exact = replay(maximum, successes, failures) if successes + failures else maximum
    # Large windows replay only their last calls: what came before is forgotten to within a step.
    assert abs(weight.effective - exact) <= 1


@pytest.mark.parametrize("start", [1, 100])
def test_a_large_window_costs_no_more_than_a_small_one_and_forgets_the_start(start: int) -> None:
    weight = DynamicWeight(100)
    weight.effective = start
    weight.observe(10**12, 0)
    assert weight.effective == 100
    weight.observe(0, 10**12)
    assert weight.effective == 1


def test_more_failures_never_give_more_weight() -> None:
    ends = []
    for failures in range(0, 101, 10):
        weight = DynamicWeight(100)
        weight.observe(100 - failures, failures)
        ends.append(weight.effective)
    assert ends[0] == 100
    assert ends[-1] == 1
    assert all(later <= earlier + 25 for earlier, later in itertools.pairwise(ends))


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        DynamicWeight(0)
    with pytest.raises(ValueError, match="counts"):
        DynamicWeight(1).observe(-1, 0)
