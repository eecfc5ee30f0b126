from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.balancing.endpoint import Endpoint
from libs.balancing.weight import DynamicWeight, DynamicWeights, after_window

A, B, C = (Endpoint(f"10.0.0.{i}", 8500) for i in (1, 2, 3))


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


@pytest.mark.parametrize(("successes", "failures"), [(3, 1), (1, 3), (5, 5), (10, 1), (0, 4), (4, 0)])
def test_a_window_ends_where_its_calls_in_any_order_end_on_average(successes: int, failures: int) -> None:
    rng, ends = random.Random(5), []
    calls = successes + failures
    for _ in range(4000):
        weight = DynamicWeight(1_000_000)  # fine, so that rounding does not show
        weight.effective = 300_000
        for _ in range(calls):
            if rng.random() < successes / calls:
                weight.succeeded()
            else:
                weight.failed()
        ends.append(weight.effective / 1_000_000)
    # The standard error of 4,000 values in 0..1 is below 0.008.
    assert after_window(0.3, successes, failures) == pytest.approx(sum(ends) / len(ends), abs=0.025)


@given(st.floats(0, 1), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_share_stays_one_and_more_failures_never_give_more(share: float, ok: int, failed: int) -> None:
    end = after_window(share, ok, failed)
    assert 0 <= end <= 1
    assert after_window(share, ok, failed + 1 + failed // 2) <= end + 1e-9


def test_an_empty_window_changes_nothing() -> None:
    assert after_window(0.25, 0, 0) == 0.25


def test_a_pool_keeps_the_weights_of_those_who_stay() -> None:
    weights = DynamicWeights({A: 100, B: 100})
    weights.observe(A, ok=False)
    weights.observe(B, ok=False)
    version = weights.version
    weights.set_members({A: 100, B: 10, C: 100})
    assert weights.effective == {A: 50, B: 10, C: 100}
    assert weights.version > version
    version = weights.version
    weights.observe(C, ok=True)
    weights.observe(Endpoint("10.0.0.9", 1), ok=False)
    assert weights.version == version


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        DynamicWeight(0)
