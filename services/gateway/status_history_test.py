from __future__ import annotations

from array import array

import pytest

from services.gateway.metrics_counters import BOUNDS_US, NOTHING, TaskCounts
from services.gateway.status_history import POINTS, History, Past, quantile

_CODES_AT, _DURATIONS_AT = 16, 33


def counts(calls: int, *, failed: int = 0, us: int = 1000) -> TaskCounts:
    """So many calls in all, each of which took `us`."""
    words = array("Q", NOTHING.words)
    words[0], words[1] = calls, calls * us
    words[_CODES_AT], words[_CODES_AT + 14] = calls - failed, failed
    words[_DURATIONS_AT + BOUNDS_US.index(us)] = calls
    return TaskCounts(words)


def test_a_quantile_lies_within_its_bucket() -> None:
    durations = counts(100, us=10_000).durations
    assert quantile(durations, 0.5) == pytest.approx(0.009)  # halfway from 8 ms to 10 ms
    assert quantile(durations, 1.0) == pytest.approx(0.010)
    assert quantile([0] * len(durations), 0.5) is None
    longest = [0] * len(durations)
    longest[-1] = 3
    assert quantile(longest, 0.99) == pytest.approx(10.0)


def test_rates_are_of_the_last_ten_and_sixty_seconds() -> None:
    history = History()
    for second in range(121):
        # 10 calls a second, and from 115 s on 50 a second of which 5 fail
        calls = 10 * min(second, 115) + 50 * max(0, second - 115)
        history.tick(float(second), {"69": counts(calls, failed=5 * max(0, second - 115))})
    now = {"69": counts(10 * 115 + 50 * 5, failed=25)}
    short, long = history.windows(120.0, now)["69"]
    assert (short.seconds, short.calls, short.failed) == (10.0, 5 * 10 + 5 * 50, 25)
    assert short.rate == pytest.approx(30.0)
    assert short.error_ratio == pytest.approx(25 / 300)
    assert (long.seconds, long.calls) == (60.0, 55 * 10 + 5 * 50)
    assert short.p50_s == pytest.approx(0.0009, rel=0.01)
    assert history.total(120.0, now)[0] == short


def test_before_the_first_tick_nothing_is_known_and_old_calls_are_not_taken_for_new_ones() -> None:
    history = History()
    short, _ = history.windows(5.0, {"69": counts(1000)})["69"]
    assert (short.calls, short.p99_s) == (0, None)
    history.tick(5.0, {"69": counts(1000)})
    short, _ = history.windows(6.0, {"69": counts(1003), "70": counts(2)})["69"]
    assert (short.calls, short.seconds) == (3, 1.0)


def test_counters_that_began_anew_count_from_zero() -> None:
    history = History()
    history.tick(0.0, {"69": counts(1000)})
    assert history.windows(1.0, {"69": counts(7)})["69"][0].calls == 7


def test_plots_are_bounded_and_end_with_the_task() -> None:
    history = History()
    for second in range(5 * (POINTS + 10)):
        history.tick(float(second), {"69": counts(second), "70": NOTHING})
    assert len(history.plot("69")) == POINTS == len(history.total_plot())
    assert history.plot("69")[-1].rate == pytest.approx(1.0)
    assert history.plot("70") == []  # never called
    for second in range(400, 406):
        history.tick(float(second), {})
    assert history.plot("69") == []


def test_the_past_answers_with_the_youngest_that_is_old_enough() -> None:
    past: Past[str, int] = Past()
    assert past.at(0.0, 10.0) is None
    for second in range(100):
        past.add(float(second), {"n": second})
    assert past.at(99.0, 10.0) == (89.0, {"n": 89})
    found = past.at(99.0, 60.0)
    assert found is not None
    assert 60.0 <= 99.0 - found[0] < 66.0
