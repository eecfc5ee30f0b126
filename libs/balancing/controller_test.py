from __future__ import annotations

from libs.balancing.controller import EndpointReport, WeightController
from libs.balancing.endpoint import Endpoint

A, B = Endpoint("10.0.0.1", 8500), Endpoint("10.0.0.2", 8500)


def controller() -> WeightController:
    weights = WeightController()
    weights.set_pools({"task-1": [A, B]})
    return weights


def test_a_failing_endpoint_loses_weight_and_the_other_keeps_it() -> None:
    weights = controller()
    assert weights.observe("task-1", [EndpointReport(A, 0, 50), EndpointReport(B, 50, 0)])
    assert weights.weights("task-1") == {A: 1, B: 100}


def test_nothing_new_is_no_change() -> None:
    weights = controller()
    assert not weights.observe("task-1", [EndpointReport(A, 9, 0), EndpointReport(B, 9, 0)])
    assert not weights.observe("task-1", [])
    assert not weights.observe("task-9", [EndpointReport(A, 0, 9)])


def test_an_endpoint_that_gets_no_calls_recovers_with_time() -> None:
    weights = controller()
    weights.observe("task-1", [EndpointReport(A, 0, 50), EndpointReport(B, 50, 0)])
    assert weights.observe("task-1", [EndpointReport(B, 5, 0)])
    assert weights.weights("task-1")[A] == 51


def test_an_idle_pool_keeps_its_weights() -> None:
    weights = controller()
    weights.observe("task-1", [EndpointReport(A, 0, 50), EndpointReport(B, 50, 0)])
    assert not weights.observe("task-1", [EndpointReport(A, 0, 0)])
    assert weights.weights("task-1")[A] == 1


def test_a_reload_keeps_the_weight_of_who_stays() -> None:
    weights = controller()
    weights.observe("task-1", [EndpointReport(A, 0, 50)])
    c = Endpoint("10.0.0.3", 8500)
    weights.set_pools({"task-1": [c, A], "task-2": [A]})
    assert weights.weights("task-1") == {c: 100, A: 1}
    assert weights.weights("task-2") == {A: 100}
    assert not weights.observe(
        "task-1", [EndpointReport(B, 0, 50), EndpointReport(c, 1, 0), EndpointReport(A, 0, 1)]
    )
    assert weights.weights("task-3") == {}
