from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.balancing.endpoint import Endpoint
from libs.balancing.policies import make
from libs.balancing.policy import NoEndpointError, PolicyName

A, B, C = (Endpoint(f"10.0.0.{i}", 8500) for i in (1, 2, 3))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("name", PolicyName)
def test_an_empty_pool_says_so_and_strangers_are_ignored(name: PolicyName) -> None:
    policy = make(name, {}, random.Random(0), Clock())
    with pytest.raises(NoEndpointError):
        policy.pick()
    policy.done(A, ok=False, latency_s=1.0)
    policy.set_members({A: 1})
    assert policy.pick() == A
    policy.set_members({B: 1})
    policy.done(A, ok=True, latency_s=1.0)
    assert {policy.pick() for _ in range(3)} == {B}


@pytest.mark.parametrize("name", PolicyName)
def test_equal_endpoints_get_equal_shares(name: PolicyName) -> None:
    clock = Clock()
    policy = make(name, {A: 100, B: 100, C: 100}, random.Random(3), clock)
    picks = {A: 0, B: 0, C: 0}
    for _ in range(3000):
        clock.now_s += 0.001
        endpoint = policy.pick()
        picks[endpoint] += 1
        policy.done(endpoint, ok=True, latency_s=0.001)
    # Three standard deviations of a binomial with n = 3000, p = 1/3 are 77.
    assert all(abs(count - 1000) < 80 for count in picks.values())


@pytest.mark.parametrize("name", PolicyName)
def test_idle_endpoints_share_by_weight(name: PolicyName) -> None:
    clock = Clock()
    policy = make(name, {A: 300, B: 100}, random.Random(3), clock)
    picks = {A: 0, B: 0}
    for _ in range(4000):
        clock.now_s += 0.001
        endpoint = policy.pick()
        picks[endpoint] += 1
        policy.done(endpoint, ok=True, latency_s=0.001)
    if name is PolicyName.PEAK_EWMA:
        # By cost / weight the heavier is always the cheaper one while nothing is in flight.
        assert picks[A] > 2900
    else:
        assert abs(picks[A] - 3000) < 90  # three standard deviations are 82


@pytest.mark.parametrize("name", set(PolicyName) - {PolicyName.ROUND_ROBIN})
def test_an_endpoint_that_fails_fast_does_not_draw_calls_in(name: PolicyName) -> None:
    clock = Clock()
    policy = make(name, {A: 100, B: 100, C: 100}, random.Random(1), clock)
    running: list[tuple[float, float, Endpoint]] = []
    failed = 0
    for _ in range(5000):
        clock.now_s += 0.001
        for call in [c for c in running if c[0] <= clock.now_s]:
            policy.done(call[2], ok=True, latency_s=call[0] - call[1])
            running.remove(call)
        endpoint = policy.pick()
        if endpoint == A:
            failed += 1
            policy.done(A, ok=False, latency_s=0.0001)
        else:
            running.append((clock.now_s + 0.01, clock.now_s, endpoint))
    assert failed < 0.02 * 5000


@pytest.mark.parametrize("name", PolicyName)
@given(seed=st.integers(0, 10**6), steps=st.lists(st.integers(0, 5), max_size=60))
def test_any_sequence_of_picks_outcomes_and_changes_holds(
    name: PolicyName, seed: int, steps: list[int]
) -> None:
    rng, clock = random.Random(seed), Clock()
    members = {A: 7, B: 100}
    policy = make(name, members, random.Random(seed), clock)
    open_calls: list[Endpoint] = []
    for step in steps:
        clock.now_s += rng.random()
        if step <= 2:
            endpoint = policy.pick()
            assert endpoint in members
            open_calls.append(endpoint)
        elif step <= 4 and open_calls:
            policy.done(open_calls.pop(), ok=step == 3, latency_s=rng.random())
        else:
            members = {
                endpoint: rng.randint(1, 1000) for endpoint in rng.sample([A, B, C], rng.randint(1, 3))
            }
            policy.set_members(members)
