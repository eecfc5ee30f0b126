"""The load reporting service (LRS): Envoy tells twice a second how many calls each instance answered and failed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc

from libs.balancing.controller import EndpointReport
from libs.balancing.endpoint import Endpoint, EndpointError
from services.gateway.bootstrap import CONTROL_CLUSTER, OWN_CLUSTER
from services.gateway.metrics_counters import Key
from services.gateway.xds_messages import message_class, stream_handler

# Weights follow what is reported; a failing instance must lose its calls within a second.
INTERVAL_MS = 500

_SERVICE = "envoy.service.load_stats.v3.LoadReportingService"
_LoadStatsResponse = message_class("envoy.service.load_stats.v3.LoadStatsResponse")

# Takes one Envoy's report of one window: for each pool, what its instances did.
Observer = Callable[[Mapping[str, list[EndpointReport]]], None]


def reports_of(request: Any) -> dict[str, list[EndpointReport]]:
    """Each pool of a report with its instances that finished a call, or have one."""
    pools: dict[str, list[EndpointReport]] = {}
    for pool, endpoint, entry in _entries(request):
        ok, failed = entry.total_successful_requests, entry.total_error_requests
        in_flight = entry.total_requests_in_progress
        if ok or failed or in_flight:
            pools.setdefault(pool, []).append(EndpointReport(endpoint, ok, failed, in_flight=in_flight))
    return pools


def in_flight_of(request: Any) -> dict[Key, int]:
    """The calls that were at each instance when the report was made. An instance that is not named has none."""
    return {
        (pool, endpoint): entry.total_requests_in_progress
        for pool, endpoint, entry in _entries(request)
        if entry.total_requests_in_progress
    }


def _entries(request: Any) -> Iterable[tuple[str, Endpoint, Any]]:
    for stats in request.cluster_stats:
        if stats.cluster_name in (CONTROL_CLUSTER, OWN_CLUSTER):
            continue
        for locality in stats.upstream_locality_stats:
            for entry in locality.upstream_endpoint_stats:
                address = entry.address.socket_address
                yield stats.cluster_name, Endpoint(address.address, address.port_value), entry
            # gRPC clients report localities only, and were given one for each instance (see xds_clients.py).
            if locality.locality.sub_zone and not locality.upstream_endpoint_stats:
                with contextlib.suppress(EndpointError):
                    yield stats.cluster_name, Endpoint.parse(locality.locality.sub_zone), locality


class CallCounts:
    """Calls answered and failed by each instance of each pool, summed over all reports since the start, and those in
    flight by the last report of each Envoy."""

    def __init__(self) -> None:
        self._counts: dict[Key, tuple[int, int]] = {}
        self._in_flight: dict[object, dict[Key, int]] = {}

    def add(self, pools: Mapping[str, Iterable[EndpointReport]]) -> None:
        for pool, reports in pools.items():
            for report in reports:
                ok, failed = self._counts.get((pool, report.endpoint), (0, 0))
                self._counts[pool, report.endpoint] = (ok + report.successes, failed + report.failures)

    def set_in_flight(self, envoy: object, found: dict[Key, int] | None) -> None:
        """Replaces what an Envoy last said; None when it is gone."""
        if found is None:
            self._in_flight.pop(envoy, None)
        else:
            self._in_flight[envoy] = found

    def keep(self, pools: Mapping[str, Iterable[Endpoint]]) -> None:
        """Forgets the instances that are in no pool any more, so that the counts stay bounded."""
        present = {(pool, endpoint) for pool, endpoints in pools.items() for endpoint in endpoints}
        self._counts = {key: counts for key, counts in self._counts.items() if key in present}

    def attempts(self) -> Mapping[Key, tuple[int, int]]:
        """Successes and failures of each instance that was ever called. gRPC statuses that stand for HTTP 5xx, and no
        answer, are failures."""
        return self._counts

    def in_flight(self) -> dict[Key, int]:
        """The calls at each instance that was ever called."""
        found = dict.fromkeys(self._counts, 0)
        for flights in self._in_flight.values():
            for key, count in flights.items():
                found[key] = found.get(key, 0) + count
        return found


class LoadReports:
    """Asks every Envoy for per-instance reports, counts them into `calls`, and hands them to the observer."""

    def __init__(
        self,
        observe: Observer,
        calls: CallCounts | None = None,
        interval_ms: int = INTERVAL_MS,
    ) -> None:
        self._observe = observe
        self._calls = calls
        self._interval_ms = interval_ms

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for a grpc.aio server."""
        return stream_handler(
            _SERVICE, "StreamLoadStats", "envoy.service.load_stats.v3.LoadStatsRequest", self._stream
        )

    async def _stream(self, request_iterator: AsyncIterator[Any], context: object) -> AsyncIterator[Any]:
        first, envoy = True, object()
        try:
            async for request in request_iterator:
                if first:
                    first = False
                    response = _LoadStatsResponse(send_all_clusters=True, report_endpoint_granularity=True)
                    response.load_reporting_interval.FromMilliseconds(self._interval_ms)
                    yield response
                if self._calls is not None:
                    self._calls.set_in_flight(envoy, in_flight_of(request))
                pools = reports_of(request)
                if pools:
                    if self._calls is not None:
                        self._calls.add(pools)
                    self._observe(pools)
        finally:
            if self._calls is not None:
                self._calls.set_in_flight(envoy, None)
