from __future__ import annotations

from services.tf_serving.execution.pace import Pace


def seen(*calls: float, size: int = 4) -> Pace:
    pace = Pace()
    for seconds in calls:
        pace.observe(seconds, size, 0.0)
    return pace


def test_it_takes_many_quick_calls() -> None:
    assert not seen(*[5e-6] * 23).in_place(4, 0.0, alone=True)
    assert seen(*[5e-6] * 24).in_place(4, 0.0, alone=True)


def test_tiny_calls_run_in_place_in_company_and_quick_ones_only_alone() -> None:
    tiny, quick, slow = seen(*[5e-6] * 40), seen(*[5e-4] * 40), seen(*[5e-3] * 40)
    assert [pace.in_place(4, 0.0, alone=False) for pace in (tiny, quick, slow)] == [True, False, False]
    assert [pace.in_place(4, 0.0, alone=True) for pace in (tiny, quick, slow)] == [True, True, False]


def test_now_and_then_a_slow_call_is_forgiven_and_many_are_not() -> None:
    assert seen(*([5e-6] * 9 + [5e-3]) * 20, 5e-6).in_place(4, 0.0, alone=True)
    assert not seen(*([5e-6] * 2 + [5e-3]) * 20).in_place(4, 0.0, alone=True)


def test_larger_requests_than_were_quick_are_not_trusted() -> None:
    pace = seen(*[5e-6] * 32, size=100)
    assert pace.in_place(100, 0.0, alone=False)
    assert not pace.in_place(101, 0.0, alone=False)
    pace.observe(5e-3, 60, 0.0)
    assert pace.in_place(59, 0.0, alone=True)
    assert not pace.in_place(60, 0.0, alone=True)


def test_a_call_that_held_everything_up_bans_for_a_while() -> None:
    pace = seen(*[5e-6] * 32)
    pace.observe(0.5, 10, 100.0)
    pace.observe(5e-6, 4, 100.0)
    assert not pace.in_place(4, 109.9, alone=True)
    assert pace.in_place(4, 110.0, alone=True)
