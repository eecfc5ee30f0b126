from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from libs.balancing.endpoint import Endpoint
from libs.balancing.peak_ewma import PeakEwma, PeakLatency

A, B, C = (Endpoint(f"10.0.0.{i}", 8500) for i in (1, 2, 3))


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_latency_jumps_to_a_peak_and_decays_with_tau() -> None:
    latency = PeakLatency(10.0, 0.0)
    latency.observe(0.1, 1.0)
    latency.observe(2.0, 1.0)
    assert latency.value(1.0) == 2.0
    assert latency.value(11.0) == pytest.approx(2.0 / math.e)
    latency.observe(0.1, 11.0)
    assert latency.value(11.0) == pytest.approx(2.0 / math.e)
    latency.observe(0.1, 41.0)
    assert latency.value(41.0) == 0.1


def test_reading_changes_nothing_and_a_clock_that_stands_still_is_no_harm() -> None:
    latency = PeakLatency(10.0, 0.0)
    latency.observe(1.0, 5.0)
    assert [latency.value(9.0) for _ in range(3)] == [latency.value(9.0)] * 3
    latency.observe(0.5, 5.0)
    assert latency.value(5.0) == 1.0


def test_a_slow_failure_is_slow_and_a_fast_one_is_not_fast() -> None:
    clock = Clock()
    policy = PeakEwma({A: 100}, random.Random(0), clock)
    for ok, latency_s, cost in ((True, 0.1, 0.1), (False, 0.001, 0.1), (False, 1.0, 1.0)):
        policy.done(policy.pick(), ok=ok, latency_s=latency_s)
        assert policy.costs() == {A: cost}


def test_one_call_tries_an_endpoint_without_a_sample_and_no_more() -> None:
    clock = Clock()
    policy = PeakEwma({A: 100, B: 100}, random.Random(0), clock)
    assert {policy.pick(), policy.pick()} == {A, B}
    policy.done(B, ok=True, latency_s=1.0)
    assert [policy.pick() for _ in range(5)] == [B] * 5


def test_the_cost_is_latency_times_the_calls_in_flight_with_the_next() -> None:
    clock = Clock()
    policy = PeakEwma({A: 100}, random.Random(0), clock)
    assert policy.costs() == {A: 0.0}
    policy.done(policy.pick(), ok=True, latency_s=0.2)
    for _ in range(3):
        policy.pick()
    assert policy.costs()[A] == pytest.approx(0.8)


def test_a_slow_endpoint_is_left_within_a_call_and_tried_again_later() -> None:
    clock = Clock()
    policy = PeakEwma({A: 100, B: 100, C: 100}, random.Random(6), clock)

    def drive(calls: int, slow_s: float) -> Counter[Endpoint]:
        picks: Counter[Endpoint] = Counter()
        for _ in range(calls):
            clock.now_s += 0.01
            endpoint = policy.pick()
            picks[endpoint] += 1
            policy.done(endpoint, ok=True, latency_s=slow_s if endpoint == A else 0.01)
        return picks

    drive(100, 0.01)
    assert drive(500, 1.0)[A] <= 5
    assert drive(8000, 0.01)[A] > 1000  # 80 s: 10 ln(100) = 46 s until the peak is forgotten


def test_a_member_that_stays_keeps_what_is_known_of_it() -> None:
    clock = Clock()
    policy = PeakEwma({A: 100, B: 100}, random.Random(0), clock)
    for endpoint in (policy.pick(), policy.pick()):
        policy.done(endpoint, ok=True, latency_s=0.5)
    policy.set_members({B: 100, C: 100})
    assert policy.costs() == {B: 0.5, C: 0.0}
