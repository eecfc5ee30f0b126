from __future__ import annotations

import random

import pytest

from dl_inference.errors import DeadlineExceeded
from dl_inference.options import RetryPolicy
from dl_inference.retry import Attempts, RetryBudget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def attempts(policy: RetryPolicy, clock: Clock, timeout_s: float = 10.0, budget: float = 0.2) -> Attempts:
    return Attempts(policy, RetryBudget(budget), timeout_s, clock, random.Random(1))


def test_waits_grow_up_to_a_bound_and_end_with_the_attempts() -> None:
    clock = Clock()
    policy = RetryPolicy(attempts=5, backoff_s=0.1, max_backoff_s=0.3)
    one = attempts(policy, clock)
    longest = []
    for bound in (0.1, 0.2, 0.3, 0.3):
        one.begin()
        wait_s = one.wait_s("UNAVAILABLE")
        assert wait_s is not None and 0 <= wait_s <= bound
        longest.append(wait_s)
    one.begin()
    assert one.wait_s("UNAVAILABLE") is None
    assert one.count == 5 and len(set(longest)) == 4


def test_only_the_codes_of_the_policy() -> None:
    one = attempts(RetryPolicy(codes=frozenset(("UNAVAILABLE", "ABORTED"))), Clock())
    one.begin()
    assert one.wait_s("INTERNAL") is None
    assert one.wait_s("ABORTED") is not None


def test_nothing_goes_past_the_deadline() -> None:
    clock = Clock()
    one = attempts(RetryPolicy(backoff_s=1.0, max_backoff_s=1.0), clock, timeout_s=0.5)
    assert one.begin() == 0.5
    clock.now += 0.4
    assert one.begin() == pytest.approx(0.1)
    clock.now += 0.2
    assert one.wait_s("UNAVAILABLE") is None  # there is no time left to wait in
    with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s") as raised:
        one.begin()
    assert raised.value.attempts == 2


def test_retries_stay_a_share_of_the_calls() -> None:
    budget, clock, policy = RetryBudget(0.2), Clock(), RetryPolicy(attempts=2)
    sent_again = 0
    for _ in range(1000):
        one = Attempts(policy, budget, 1.0, clock, random.Random(1))
        one.begin()
        sent_again += one.wait_s("UNAVAILABLE") is not None
    assert 200 <= sent_again <= 211


def test_a_policy_of_no_attempt_is_refused() -> None:
    with pytest.raises(ValueError, match="attempts is 0"):
        RetryPolicy(attempts=0)
