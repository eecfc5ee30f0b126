from __future__ import annotations

import pytest

from services.torch_worker.haste import Haste


def test_nothing_is_known_at_first() -> None:
    assert Haste().needed(0.0) == 0.0


def test_the_fastest_recent_call_counts() -> None:
    haste = Haste()
    for n, seconds in enumerate([0.3, 0.1, 0.2]):
        haste.observe(seconds, 1, float(n))
    assert haste.needed(2.5) == pytest.approx(0.09)
    assert haste.needed(30.0) == pytest.approx(0.05), "after a second only half of it is trusted"
    assert haste.needed(70.0) == 0.0, "after a minute nothing"


def test_a_busy_time_says_little_about_a_lone_request() -> None:
    haste = Haste()
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
    haste.observe(1.0, 1, 100.0)
    assert haste.needed(100.0) == pytest.approx(0.9), "a call of two minutes ago says nothing any more"


def test_no_rows_is_no_division_by_zero() -> None:
    haste = Haste()
    haste.observe(0.1, 0, 0.0)
    assert haste.needed(0.0) == pytest.approx(0.09)
