from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from libs.balancing.endpoint import Endpoint
from libs.balancing.round_robin import RoundRobin
from libs.balancing.weighted import DynamicRoundRobin

A, B, C = (Endpoint(f"10.0.0.{i}", 8500) for i in (1, 2, 3))


def test_equal_weights_take_turns() -> None:
    policy = RoundRobin({A: 100, B: 100, C: 100})
    assert [policy.pick() for _ in range(6)] == [A, B, C, A, B, C]


def test_weights_are_smooth() -> None:
    policy = RoundRobin({A: 5, B: 1, C: 1})
    assert [policy.pick() for _ in range(7)] == [A, A, B, A, C, A, A]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_each_endpoint_gets_exactly_its_share_of_a_round(weights: list[int]) -> None:
    pool = {Endpoint("10.0.0.1", port): weight for port, weight in enumerate(weights, start=1)}
    policy = RoundRobin(pool)
    assert Counter(policy.pick() for _ in range(sum(weights))) == pool


def test_dynamic_a_failing_endpoint_loses_its_share_and_earns_it_back() -> None:
    policy = DynamicRoundRobin({A: 100, B: 100})
    for _ in range(200):
        endpoint = policy.pick()
        policy.done(endpoint, ok=endpoint != A, latency_s=0.01)
    picks: Counter[Endpoint] = Counter()
    for _ in range(404):
        endpoint = policy.pick()
        picks[endpoint] += 1
        policy.done(endpoint, ok=endpoint != A, latency_s=0.01)
    assert picks[A] <= 8
    for _ in range(1000):
        policy.done(policy.pick(), ok=True, latency_s=0.01)
    assert policy.effective() == {A: 100, B: 100}
