"""The load reporting service: Envoy tells once a second how many calls each instance answered and failed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc

from libs.balancing.controller import EndpointReport
from libs.balancing.endpoint import Endpoint
from services.gateway.bootstrap import CONTROL_CLUSTER
from services.gateway.xds_messages import message_class, stream_handler

INTERVAL_MS = 1000

_SERVICE = "envoy.service.load_stats.v3.LoadReportingService"
_LoadStatsResponse = message_class("envoy.service.load_stats.v3.LoadStatsResponse")

# Takes one Envoy's report of one window: for each pool, what its instances did.
Observer = Callable[[Mapping[str, list[EndpointReport]]], None]


def reports_of(request: Any) -> dict[str, list[EndpointReport]]:
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


class CallCounts:
    """Calls answered and failed by each instance of each pool, summed over all reports since the start."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, Endpoint], tuple[int, int]] = {}

    def add(self, pools: Mapping[str, Iterable[EndpointReport]]) -> None:
        for pool, reports in pools.items():
            for report in reports:
                ok, failed = self._counts.get((pool, report.endpoint), (0, 0))
                self._counts[pool, report.endpoint] = (ok + report.successes, failed + report.failures)

    def keep(self, pools: Mapping[str, Iterable[Endpoint]]) -> None:
        """Forgets the instances that are in no pool any more, so that the counts stay bounded."""
        present = {(pool, endpoint) for pool, endpoints in pools.items() for endpoint in endpoints}
        self._counts = {key: counts for key, counts in self._counts.items() if key in present}

    def items(self) -> Iterable[tuple[str, Endpoint, int, int]]:
        """Pool, instance, successes, failures."""
        for (pool, endpoint), (ok, failed) in self._counts.items():
            yield pool, endpoint, ok, failed


class LoadReports:
    """Asks every Envoy for per-instance reports and hands them to the observer."""

    def __init__(self, observe: Observer, interval_ms: int = INTERVAL_MS) -> None:
        self._observe = observe
        self._interval_ms = interval_ms

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for a grpc.aio server."""
        return stream_handler(
            _SERVICE, "StreamLoadStats", "envoy.service.load_stats.v3.LoadStatsRequest", self._stream
        )

    async def _stream(self, request_iterator: AsyncIterator[Any], context: object) -> AsyncIterator[Any]:
        first = True
        async for request in request_iterator:
            if first:
                first = False
                response = _LoadStatsResponse(send_all_clusters=True, report_endpoint_granularity=True)
                response.load_reporting_interval.FromMilliseconds(self._interval_ms)
                yield response
            pools = reports_of(request)
            if pools:
                self._observe(pools)
