from __future__ import annotations

from services.torch_worker.execution.exhaustion import RowLimits


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_failures_there_is_no_limit() -> None:
    limits = RowLimits(Clock())
    limits.fitted("a", 64)
    assert limits.allowed("a") is None


def test_a_failure_halves_and_only_for_its_kind() -> None:
    limits = RowLimits(Clock())
    assert limits.exhausted("a", 64) == 32
    assert limits.allowed("a") == 32 and limits.allowed("b") is None
    assert limits.exhausted("a", 32) == 16
    assert limits.exhausted("a", 1) == 1


def search(capacity: int, asked: int, clock: Clock, limits: RowLimits, seconds: int) -> tuple[list[int], int]:
    """Sizes that ran, and how many failed, with a call a second on a machine that holds so many rows."""
    sizes, failures = [], 0
    for _ in range(seconds):
        clock.now += 1
        rows = min(asked, limits.allowed("a") or asked)
        if rows > capacity:
            failures += 1
            limits.exhausted("a", rows)
        else:
            limits.fitted("a", rows)
            sizes.append(rows)
    return sizes, failures


def test_the_limit_climbs_to_what_fits_and_stays_about_there() -> None:
    clock = Clock()
    limits = RowLimits(clock)
    sizes, failures = search(50, 64, clock, limits, 3600)
    assert failures < 15, "tries become rare"
    assert min(sizes[1800:]) >= 40, "a failed try falls back to what has fitted, not to half"


def test_memory_that_comes_back_is_used_again() -> None:
    clock = Clock()
    limits = RowLimits(clock)
    search(10, 64, clock, limits, 60)
    sizes, failures = search(1000, 64, clock, limits, 1200)
    assert sizes[-1] == 64 and not failures and limits.allowed("a") is None
    for kind in range(200):
        limits.exhausted(kind, 8)
    assert len(limits._limits) == 64
