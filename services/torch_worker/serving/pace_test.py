from __future__ import annotations

from services.torch_worker.serving.pace import Pace


def test_slow_is_known_from_the_first_call_and_forgotten_slowly() -> None:
    pace = Pace()
    assert not pace.slow
    pace.observe(0.128, 64)
    assert pace.slow, "two milliseconds each"
    pace.observe(0.0, 1)
    assert pace.slow
    for _ in range(30):
        pace.observe(0.0001, 1)
    assert not pace.slow


def test_one_interrupted_call_of_many_does_not_make_a_quick_hook_slow() -> None:
    pace = Pace()
    for _ in range(20):
        pace.observe(0.00005, 1)
    pace.observe(0.005, 1)
    assert not pace.slow


def test_between_the_bounds_things_stay_as_they_are() -> None:
    quick, slow = Pace(), Pace()
    slow.observe(1.0, 1)
    for _ in range(200):
        quick.observe(0.0007, 1)
        slow.observe(0.0007, 1)
    assert slow.slow and not quick.slow
