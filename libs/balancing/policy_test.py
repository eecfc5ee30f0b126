from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import DynamicRoundRobin, LeastRequest, NoEndpointError

A, B, C = (Endpoint(f"10.0.0.{i}", 8500) for i in (1, 2, 3))


def test_equal_weights_take_turns() -> None:
    policy = DynamicRoundRobin([A, B, C])
    assert [policy.pick() for _ in range(6)] == [A, B, C, A, B, C]


def test_weights_are_smooth() -> None:
    policy = DynamicRoundRobin({A: 5, B: 1, C: 1})
    assert [policy.pick() for _ in range(7)] == [A, A, B, A, C, A, A]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_each_endpoint_gets_exactly_its_share_of_a_round(weights: list[int]) -> None:
    pool = {Endpoint("10.0.0.1", port): weight for port, weight in enumerate(weights, start=1)}
    policy = DynamicRoundRobin(pool)
    assert Counter(policy.pick() for _ in range(sum(weights))) == pool


def test_a_failing_endpoint_loses_its_share_and_earns_it_back() -> None:
    policy = DynamicRoundRobin([A, B])
    for _ in range(200):
        endpoint = policy.pick()
        policy.done(endpoint, ok=endpoint != A)
    picks: Counter[Endpoint] = Counter()
    for _ in range(404):
        endpoint = policy.pick()
        picks[endpoint] += 1
        policy.done(endpoint, ok=endpoint != A)
    assert picks[A] <= 8
    for _ in range(1000):
        policy.done(policy.pick(), ok=True)
    assert policy.effective() == {A: 100, B: 100}


def test_least_request_prefers_the_idle_one_of_two() -> None:
    policy = LeastRequest([A, B], random.Random(1))
    first = policy.pick()
    second = policy.pick()
    assert {first, second} == {A, B}
    policy.done(first, ok=True)
    assert policy.pick() == first


def test_least_request_gives_a_slow_endpoint_less() -> None:
    rng = random.Random(7)
    policy, picks = LeastRequest([A, B, C], rng), Counter[Endpoint]()
    running: list[tuple[int, Endpoint]] = []
    for now in range(3000):
        for done in [r for r in running if r[0] <= now]:
            policy.done(done[1], ok=True)
            running.remove(done)
        endpoint = policy.pick()
        picks[endpoint] += 1
        running.append((now + (30 if endpoint == A else 3), endpoint))
    assert picks[A] < 0.2 * 3000
    assert abs(picks[B] - picks[C]) < 0.1 * 3000


@given(st.lists(st.booleans(), max_size=60))
def test_in_flight_counts_match_picks_and_reports(steps: list[bool]) -> None:
    policy = LeastRequest([A, B, C], random.Random(0))
    open_calls: list[Endpoint] = []
    for pick in steps:
        if pick or not open_calls:
            open_calls.append(policy.pick())
        else:
            policy.done(open_calls.pop(), ok=True)
    assert policy.in_flight() == {e: open_calls.count(e) for e in (A, B, C)}


def test_an_empty_pool_says_so_and_strangers_are_ignored() -> None:
    for policy in (DynamicRoundRobin([]), LeastRequest([], random.Random(0))):
        with pytest.raises(NoEndpointError):
            policy.pick()
        policy.done(A, ok=False)
