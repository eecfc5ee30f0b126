from __future__ import annotations

from services.torch_worker.serving.quick import Quick


def seen(*seconds: float, size: int = 1) -> Quick:
    quick = Quick()
    for call in seconds:
        quick.observe(call, size, 0.0)
    return quick


def test_many_quick_calls_are_needed() -> None:
    assert not seen(*[0.0001] * 31).allows(1, 0.0)
    assert seen(*[0.0001] * 32).allows(1, 0.0)


def test_slow_calls_count_while_they_are_remembered() -> None:
    quick = seen(*[0.0001] * 32)
    for _ in range(8):
        quick.observe(0.002, 1, 0.0)
        assert quick.allows(1, 0.0)
    quick.observe(0.002, 1, 0.0)
    assert not quick.allows(1, 0.0)
    for _ in range(32):
        quick.observe(0.0001, 1, 0.0)
    assert quick.allows(1, 0.0)


def test_one_very_slow_call_bans_for_a_while() -> None:
    quick = seen(*[0.0001] * 32)
    quick.observe(0.5, 1, 10.0)
    assert not quick.allows(1, 19.9)
    assert quick.allows(1, 20.0)
    quick.observe(0.5, 1, 30.0)  # again: for twice as long
    assert not quick.allows(1, 49.9) and quick.allows(1, 50.0)


def test_larger_requests_than_seen_are_not_trusted() -> None:
    quick = seen(*[0.0001] * 32, size=4)
    assert quick.allows(4, 0.0) and not quick.allows(5, 0.0)
