from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from libs.balancing.endpoint import Endpoint
from libs.balancing.least_request import LeastRequest

A, B, C = (Endpoint(f"10.0.0.{i}", 8500) for i in (1, 2, 3))
EQUAL = {A: 100, B: 100, C: 100}


def test_the_idle_one_of_two_is_preferred() -> None:
    policy = LeastRequest({A: 1, B: 1}, random.Random(1))
    first = policy.pick()
    second = policy.pick()
    assert {first, second} == {A, B}
    policy.done(first, ok=True, latency_s=0.1)
    assert policy.pick() == first


def test_a_heavier_endpoint_holds_more_calls() -> None:
    policy = LeastRequest({A: 300, B: 100}, random.Random(1))
    for _ in range(400):
        policy.pick()
    assert policy.in_flight() == {A: 300, B: 100}


def test_a_slow_endpoint_gets_less() -> None:
    rng = random.Random(7)
    policy, picks = LeastRequest(EQUAL, rng), Counter[Endpoint]()
    running: list[tuple[int, Endpoint]] = []
    for now in range(3000):
        for done in [r for r in running if r[0] <= now]:
            policy.done(done[1], ok=True, latency_s=0.001)
            running.remove(done)
        endpoint = policy.pick()
        picks[endpoint] += 1
        running.append((now + (30 if endpoint == A else 3), endpoint))
    assert picks[A] < 0.2 * 3000
    assert abs(picks[B] - picks[C]) < 0.1 * 3000


def test_a_stalled_endpoint_gets_no_more_calls_than_the_busiest_other() -> None:
    policy = LeastRequest(EQUAL, random.Random(2))
    stalled = 0
    for _ in range(3000):
        endpoint = policy.pick()
        if endpoint == A:
            stalled += 1
        else:
            policy.done(endpoint, ok=True, latency_s=0.001)
    assert stalled == 1


@given(st.lists(st.booleans(), max_size=60))
def test_in_flight_counts_match_picks_and_reports(steps: list[bool]) -> None:
    policy = LeastRequest(EQUAL, random.Random(0))
    open_calls: list[Endpoint] = []
    for pick in steps:
        if pick or not open_calls:
            open_calls.append(policy.pick())
        else:
            policy.done(open_calls.pop(), ok=True, latency_s=0.1)
    assert policy.in_flight() == {e: open_calls.count(e) for e in (A, B, C)}
