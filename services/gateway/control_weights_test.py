from __future__ import annotations

from libs.balancing.controller import EndpointReport
from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import PolicyName
from services.gateway.control_weights import Weights
from services.gateway.metrics_counters import InstanceCounts
from services.gateway.table import Pool, Table

A, B, C = Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 1), Endpoint("10.0.0.3", 1)


def weights(policy: PolicyName) -> Weights:
    now = iter(range(10_000))
    found = Weights(lambda: next(now) * 0.5)
    found.set_pools(Table({}, {"p": Pool("p", {A: 100, B: 100}, policy)}), {"p": [{A: 100, B: 100}, {C: 30}]})
    return found


def test_an_instance_that_fails_loses_weight_and_a_stand_in_has_its_own() -> None:
    found = weights(PolicyName.LEAST_REQUEST)
    assert found.effective("p") == {A: 100, B: 100, C: 30}
    assert found.observe({"p": [EndpointReport(A, 0, 20), EndpointReport(B, 20, 0)], "gone": []}) == ["p"]
    now = found.effective("p")
    assert now[A] < 10
    assert now[B] == 100


def test_latency_counts_from_the_second_look_on_and_only_where_the_policy_wants_it() -> None:
    for policy, matters in ((PolicyName.PEAK_EWMA, True), (PolicyName.LEAST_REQUEST, False)):
        found = weights(policy)
        assert found.uses_latency is matters
        for turn in range(20):
            calls = 100 * turn
            found.observe_latencies(
                {
                    ("p", A): InstanceCounts(calls, calls * 1_000, 0),
                    ("p", B): InstanceCounts(calls, calls * 8_000, 0),
                    ("q", A): InstanceCounts(calls, calls, 0),
                }
            )
            if not turn:
                assert found.effective("p")[B] == 100
        assert (found.effective("p")[B] < 50) is matters


def test_an_instance_that_is_counted_anew_is_not_compared_with_what_it_was() -> None:
    found = weights(PolicyName.PEAK_EWMA)
    first = InstanceCounts(100, 100_000, 0)
    found.observe_latencies({("p", A): first, ("p", B): first})
    found.observe_latencies({("p", A): first})  # B's room was given back
    found.observe_latencies(
        {("p", A): InstanceCounts(200, 200_000, 0), ("p", B): InstanceCounts(200, 50_000_000, 0)}
    )
    assert found.effective("p")[B] == 100
