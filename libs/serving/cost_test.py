"""What is learned of calls: the typical time and the least."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.serving.cost import CallCost
from libs.serving.errors import DeadlineExceeded


def _learn(
    cost: CallCost,
    row_s: float,
    base_s: float,
    sizes: list[int],
    *,
    now: float = 0.0,
    noise: random.Random | None = None,
) -> float:
    """Calls that take row_s * rows + base_s, one after the other; one in ten is disturbed. The time of the end."""
    for rows in sizes:
        seconds = row_s * rows + base_s
        if noise is not None:
            seconds *= noise.uniform(5, 50) if noise.random() < 0.1 else noise.uniform(0.9, 1.1)
        now += seconds
        cost.observe(seconds, rows, now)
    return now


@pytest.mark.parametrize(
    ("row_s", "base_s"), [(5e-6, 5e-4), (0.1, 0.002), (0.0, 0.01), (0.001, 0.0), (2e-4, 2e-3)]
)
def test_the_line_is_found_although_calls_are_disturbed(row_s: float, base_s: float) -> None:
    noise = random.Random(1)
    cost = CallCost()
    _learn(cost, row_s, base_s, [noise.randint(1, 64) for _ in range(200)], noise=noise)
    for rows in (1, 8, 32, 64):
        assert cost.typical(rows) == pytest.approx(row_s * rows + base_s, rel=0.25)


def test_nothing_is_known_at_first() -> None:
    assert (CallCost().typical(64), CallCost().least(0.0)) == (0.0, 0.0)


def test_of_calls_of_one_size_rows_count_as_free() -> None:
    cost = CallCost()
    _learn(cost, 0.1, 0.1, [1] * 20)
    assert cost.typical(1) == pytest.approx(0.2)
    assert cost.typical(64) == pytest.approx(0.2)
    _learn(cost, 0.1, 0.1, [2], now=10.0)
    assert cost.typical(64) == pytest.approx(6.5, rel=0.01)


def test_a_new_speed_is_believed_within_seven_calls() -> None:
    cost = CallCost()
    now = _learn(cost, 1e-3, 1e-2, [1, 64] * 50)
    _learn(cost, 2e-3, 2e-2, [1, 64] * 7, now=now)
    assert cost.typical(32) == pytest.approx(0.084, rel=0.01)


def test_what_small_calls_took_long_ago_does_not_outweigh_what_larger_ones_take_now() -> None:
    cost = CallCost()
    now = _learn(cost, 1e-3, 1e-2, [1] * 50)
    now = _learn(cost, 0.0, 0.2, [20, 40] * 10, now=now + 60)
    assert cost.typical(30) == pytest.approx(0.2, rel=0.1)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 1e3), st.floats(0, 100)), min_size=1, max_size=60)
)
def test_no_history_gives_a_negative_or_endless_time(calls: list[tuple[int, float, float]]) -> None:
    cost = CallCost()
    now = 0.0
    for rows, seconds, pause in calls:
        now += pause + seconds
        cost.observe(seconds, rows, now)
        assert cost.row_s >= 0
        assert cost.base_s >= 0
        assert 0 <= cost.typical(64) < float("inf")
        assert 0 <= cost.least(now) <= max(seconds for _, seconds, _ in calls)


def test_the_fastest_recent_call_counts() -> None:
    cost = CallCost()
    for n, seconds in enumerate([0.3, 0.1, 0.2, 0.2]):
        cost.observe(seconds, 1, float(n - 1))
    assert cost.least(2.5) == pytest.approx(0.09)
    assert cost.least(30.0) == pytest.approx(0.05), "after a second only half of it is trusted"
    assert cost.least(70.0) == 0.0, "after a minute nothing"


def test_a_busy_time_says_little_about_a_lone_request() -> None:
    cost = CallCost()
    for _ in range(4):
        cost.observe(0.64, 64, 0.0)
    assert cost.least(0.5) == pytest.approx(0.576)
    assert cost.least(2.0) == pytest.approx(0.005)


def test_old_calls_leave_the_window() -> None:
    cost = CallCost()
    cost.observe(0.01, 1, 0.0)
    for n in range(32):
        cost.observe(1.0, 1, n / 10)
    assert cost.least(3.2) == pytest.approx(0.9)
    cost = CallCost()
    cost.observe(0.01, 1, 0.0)
    for _ in range(4):
        cost.observe(1.0, 1, 100.0)
    assert cost.least(100.0) == pytest.approx(0.9), "a call of two minutes ago says nothing any more"


def test_no_rows_is_no_division_by_zero() -> None:
    cost = CallCost()
    for _ in range(4):
        cost.observe(0.1, 0, 0.0)
    assert cost.least(0.0) == pytest.approx(0.09)


def test_a_call_must_begin_by_the_deadline_less_the_least_time() -> None:
    cost = CallCost()
    assert cost.start_by(5.0, 1.0) == 5.0
    with pytest.raises(DeadlineExceeded, match="passed before"):
        cost.start_by(1.0, 1.0)
    cost.observe(0.1, 1, 1.0)
    assert cost.start_by(2.0, 1.5) == pytest.approx(1.91)
    with pytest.raises(DeadlineExceeded, match="in 80 ms and the model takes 90 ms"):
        cost.start_by(1.58, 1.5)


def served(cost: CallCost, takes: list[float], timeout: float, gap: float) -> list[bool]:
    """Which of a row of lone calls run, of so many seconds each, with a pause before each."""
    now, ran = 0.0, []
    for seconds in takes:
        now += gap
        try:
            cost.start_by(now + timeout, now)
        except DeadlineExceeded:
            ran.append(False)
            continue
        now += seconds
        cost.observe(seconds, 1, now)
        ran.append(True)
    return ran


def test_one_slow_first_call_is_forgotten_within_a_second() -> None:
    ran = served(CallCost(), [3.0] + [0.01] * 200, timeout=0.1, gap=0.01)
    assert ran[0]
    assert all(ran[102:])


def test_a_model_that_was_slow_for_long_is_served_again_within_a_second_of_getting_faster() -> None:
    ran = served(CallCost(), [0.5] * 32 + [0.01] * 400, timeout=0.1, gap=0.01)
    assert ran[32:].count(False) <= 101
    assert all(ran[32 + 101 :])


def test_a_model_that_stays_slow_refuses_most() -> None:
    ran = served(CallCost(), [0.3] * 4 + [0.3] * 1000, timeout=0.1, gap=0.01)
    assert ran[0]
    assert 5 <= ran[1:].count(True) <= 13, "about one a second"
