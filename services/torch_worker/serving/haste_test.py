from __future__ import annotations

import pytest

from services.torch_worker.serving.haste import Haste


def test_nothing_is_known_at_first() -> None:
    assert Haste().needed(0.0) == 0.0


def test_the_fastest_recent_call_counts() -> None:
    haste = Haste()
    for n, seconds in enumerate([0.3, 0.1, 0.2, 0.2]):
        haste.observe(seconds, 1, float(n - 1))
    assert haste.needed(2.5) == pytest.approx(0.09)
    assert haste.needed(30.0) == pytest.approx(0.05), "after a second only half of it is trusted"
    assert haste.needed(70.0) == 0.0, "after a minute nothing"


def test_a_busy_time_says_little_about_a_lone_request() -> None:
    haste = Haste()
    for _ in range(4):
        haste.observe(0.64, 64, 0.0)
    assert haste.needed(0.5) == pytest.approx(0.576)
    assert haste.needed(2.0) == pytest.approx(0.005)


def test_old_calls_leave_the_window() -> None:
    haste = Haste()
    haste.observe(0.01, 1, 0.0)
    for n in range(32):
        haste.observe(1.0, 1, n / 10)
    assert haste.needed(3.2) == pytest.approx(0.9)
    haste = Haste()
    haste.observe(0.01, 1, 0.0)
    for _ in range(4):
        haste.observe(1.0, 1, 100.0)
    assert haste.needed(100.0) == pytest.approx(0.9), "a call of two minutes ago says nothing any more"


def test_no_rows_is_no_division_by_zero() -> None:
    haste = Haste()
    for _ in range(4):
        haste.observe(0.1, 0, 0.0)
    assert haste.needed(0.0) == pytest.approx(0.09)


def served(haste: Haste, takes: list[float], timeout: float, gap: float) -> list[bool]:
    """Which of a row of lone calls run, of so many seconds each, with a pause before each."""
    now, ran = 0.0, []
    for seconds in takes:
        now += gap
        runs = timeout > haste.needed(now) or haste.probes(now)
        if runs:
            now += seconds
            haste.observe(seconds, 1, now)
        ran.append(runs)
    return ran


def test_one_slow_first_call_is_forgotten_within_a_second() -> None:
    ran = served(Haste(), [3.0] + [0.01] * 200, timeout=0.1, gap=0.01)
    assert ran[0] and all(ran[102:])


def test_a_model_that_was_slow_for_long_is_served_again_within_a_second_of_getting_faster() -> None:
    ran = served(Haste(), [0.5] * 32 + [0.01] * 400, timeout=0.1, gap=0.01)
    refused = ran[32:].count(False)
    assert refused <= 101 and all(ran[32 + 101 :])


def test_a_model_that_stays_slow_refuses_most() -> None:
    ran = served(Haste(), [0.3] * 4 + [0.3] * 1000, timeout=0.1, gap=0.01)
    assert ran[0]
    assert 5 <= ran[1:].count(True) <= 13, "about one a second"
