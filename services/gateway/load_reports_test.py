from __future__ import annotations

from typing import Any

from libs.balancing.controller import EndpointReport
from libs.balancing.endpoint import Endpoint
from services.gateway.load_reports import CallCounts, LoadReports, reports_of
from services.gateway.xds_messages import message_class

Request = message_class("envoy.service.load_stats.v3.LoadStatsRequest")

A, B = Endpoint("10.0.0.1", 8500), Endpoint("fd00::1", 8500)


def request(*rows: tuple[str, Endpoint, int, int]) -> Any:
    found = Request()
    for cluster, endpoint, ok, failed in rows:
        entry = found.cluster_stats.add(cluster_name=cluster).upstream_locality_stats.add()
        stats = entry.upstream_endpoint_stats.add(total_successful_requests=ok, total_error_requests=failed)
        stats.address.socket_address.address = endpoint.host
        stats.address.socket_address.port_value = endpoint.port
    return found


def test_reports_are_by_pool_and_instance_and_leave_out_the_silent_and_the_control_plane() -> None:
    message = request(
        ("task-1", A, 5, 1), ("task-2", B, 0, 0), ("own-services", A, 9, 0), ("task-3", B, 0, 2)
    )
    assert reports_of(message) == {"task-1": [EndpointReport(A, 5, 1)], "task-3": [EndpointReport(B, 0, 2)]}


def test_calls_add_up_and_an_instance_that_left_is_forgotten() -> None:
    calls = CallCounts()
    for _ in range(2):
        calls.add({"task-1": [EndpointReport(A, 5, 1), EndpointReport(B, 1, 0)]})
    assert calls.attempts() == {("task-1", A): (10, 2), ("task-1", B): (2, 0)}
    calls.keep({"task-1": [B], "task-2": [A]})
    assert calls.attempts() == {("task-1", B): (2, 0)}


async def test_envoy_is_asked_for_every_instance_and_its_reports_are_handed_on() -> None:
    seen: list[dict[str, list[EndpointReport]]] = []
    service = LoadReports(lambda pools: seen.append(dict(pools)), interval_ms=250)

    async def requests() -> Any:
        yield request()
        yield request(("task-1", A, 3, 0))

    answers = [answer async for answer in service._stream(requests(), None)]
    assert len(answers) == 1
    assert answers[0].send_all_clusters
    assert answers[0].report_endpoint_granularity
    assert answers[0].load_reporting_interval.ToMilliseconds() == 250
    assert seen == [{"task-1": [EndpointReport(A, 3, 0)]}]
