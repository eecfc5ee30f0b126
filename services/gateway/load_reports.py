"""The load reporting service: Envoy tells once a second how many calls each instance answered and failed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from envoy.service.load_stats.v3 import lrs_pb2, lrs_pb2_grpc

from libs.balancing.controller import EndpointReport
from libs.balancing.endpoint import Endpoint
from services.gateway.bootstrap import CONTROL_CLUSTER

INTERVAL_MS = 1000

# Takes one Envoy's report of one window: for each pool, what its instances did.
Observer = Callable[[Mapping[str, list[EndpointReport]]], None]


def reports_of(request: lrs_pb2.LoadStatsRequest) -> dict[str, list[EndpointReport]]:
    """Each pool of a report with its instances that finished a call."""
    pools: dict[str, list[EndpointReport]] = {}
    for stats in request.cluster_stats:
        if stats.cluster_name == CONTROL_CLUSTER:
            continue
        found = [
            EndpointReport(
                Endpoint(entry.address.socket_address.address, entry.address.socket_address.port_value),
                entry.total_successful_requests,
                entry.total_error_requests,
            )
            for locality in stats.upstream_locality_stats
            for entry in locality.upstream_endpoint_stats
            if entry.total_successful_requests or entry.total_error_requests
        ]
        if found:
            pools[stats.cluster_name] = found
    return pools


class LoadReports(lrs_pb2_grpc.LoadReportingServiceServicer):  # type: ignore[misc] (generated, untyped)
    """Asks every Envoy for per-instance reports and hands them to the observer."""

    def __init__(self, observe: Observer, interval_ms: int = INTERVAL_MS) -> None:
        self._observe = observe
        self._interval_ms = interval_ms

    async def StreamLoadStats(  # noqa: N802 (the service's name)
        self, request_iterator: AsyncIterator[lrs_pb2.LoadStatsRequest], context: object
    ) -> AsyncIterator[lrs_pb2.LoadStatsResponse]:
        first = True
        async for request in request_iterator:
            if first:
                first = False
                response = lrs_pb2.LoadStatsResponse(send_all_clusters=True, report_endpoint_granularity=True)
                response.load_reporting_interval.FromMilliseconds(self._interval_ms)
                yield response
            pools = reports_of(request)
            if pools:
                self._observe(pools)
