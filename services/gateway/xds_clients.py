"""The table for gRPC clients that balance by themselves (`xds:///task-69`), in the form that gRPC's libraries take.

They know fewer features than Envoy and reject what they do not know, so these are resources of their own: a listener
with its routes inside, a plain round robin, no health checks. Which instance gets how much is told by localities, one
for each instance: gRPC heeds the weights of localities, not those of instances. Pure.

Access is checked, and rates are limited, by the gateway's listener, past which these calls go: tasks that ask for
either are not offered here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from libs.balancing.endpoint import Endpoint
from services.gateway.names import task_id_of
from services.gateway.snapshot import Groups, Resource, resource
from services.gateway.snapshot_routes import SHARES
from services.gateway.table import Pool, Table, Task
from services.gateway.xds_messages import message_class, pack, parse

_TYPE = "type.googleapis.com/envoy."
_Cluster = message_class("envoy.config.cluster.v3.Cluster")
_ConnectionManager = message_class(
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
_Listener = message_class("envoy.config.listener.v3.Listener")
_LoadAssignment = message_class("envoy.config.endpoint.v3.ClusterLoadAssignment")

# gRPC takes the listener of a client only with the router as its last filter.
_CONNECTION_MANAGER = parse(
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    {
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": _TYPE + "extensions.filters.http.router.v3.Router"},
            }
        ]
    },
)
_MOST_MADE = 100_000
# What an instance says when it did not start on a call. gRPC retries nothing of which a part was answered.
_RETRY_ON = "unavailable"
# Instances are left out while most of their calls fail. gRPC counts an application's error as a failure as well, so
# that it takes nearly all of them.
_CLUSTER = parse(
    "envoy.config.cluster.v3.Cluster",
    {
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "lb_policy": "ROUND_ROBIN",
        "lrs_server": {"self": {}},
        "outlier_detection": {
            "interval": "1s",
            "base_ejection_time": "1s",
            "max_ejection_time": "30s",
            "max_ejection_percent": 50,
            "enforcing_success_rate": 0,
            "failure_percentage_threshold": 85,
            "enforcing_failure_percentage": 100,
            "failure_percentage_minimum_hosts": 2,
            "failure_percentage_request_volume": 10,
        },
    },
)


def task_of(name: str, table: Table) -> Task | None:
    """The task that a client means by `task-69`, `textcnn-69` or `69`; None when there is none for it here."""
    task_id = task_id_of(name)
    task = None if task_id is None else table.tasks.get(task_id)
    if task is None or task.jwt or task.clients is not None or task.max_qps is not None:
        return None
    return task


class ClientView:
    """One state of the table for all clients. A resource is made when the first of them asks for it."""

    def __init__(
        self,
        table: Table,
        pools: Mapping[str, Groups],
        weights: Callable[[str], Mapping[Endpoint, int]],
    ) -> None:
        self._table, self._pools, self._weights = table, pools, weights
        self._made: dict[tuple[str, str], Resource | None] = {}

    def listener(self, name: str) -> Resource | None:
        """Every name has one."""
        return self._once("listener", name, self._listener)

    def cluster(self, name: str) -> Resource | None:
        return self._once("cluster", name, self._cluster)

    def endpoints(self, name: str) -> Resource | None:
        return self._once("endpoints", name, self._endpoints)

    def reweighed(self) -> ClientView:
        """The same table with the weights as they are now."""
        fresh = ClientView(self._table, self._pools, self._weights)
        fresh._made = {key: made for key, made in self._made.items() if key[0] != "endpoints"}
        return fresh

    def _once(self, kind: str, name: str, make: Callable[[str], Any | None]) -> Resource | None:
        key = (kind, name)
        if key not in self._made:
            message = make(name)
            found = None if message is None else resource(message)
            if len(self._made) >= _MOST_MADE:  # clients may ask for any name
                return found
            self._made[key] = found
        return self._made[key]

    def _listener(self, name: str) -> Any:
        manager = _ConnectionManager()
        manager.CopyFrom(_CONNECTION_MANAGER)
        manager.route_config.name = name
        task = task_of(name, self._table)
        if task is not None:
            self._route(manager.route_config.virtual_hosts.add(name=name, domains=["*"]), task)
        # Else a listener that leads nowhere: gRPC would wait 15 s for one that is not there before it fails a call.
        found = _Listener(name=name)
        found.api_listener.api_listener.CopyFrom(pack(manager))
        return found

    def _route(self, host: Any, task: Task) -> None:
        route = host.routes.add()
        route.match.prefix = ""
        action = route.route
        # No max_stream_duration, though gRPC knows it: its C core counts it from a clock of its own that was seen to be
        # seconds off, so that a timeout of 100 ms would fail calls before they are sent. Callers set their deadlines.
        if task.canary is None:
            action.cluster = task.pool
        else:
            parts = round(task.canary.percent / 100 * SHARES)
            for pool, weight in ((task.pool, SHARES - parts), (task.canary.pool, parts)):
                if weight:
                    action.weighted_clusters.clusters.add(name=pool).weight.value = weight
        if task.retries:
            action.retry_policy.retry_on = _RETRY_ON
            action.retry_policy.num_retries.value = task.retries

    def _cluster(self, name: str) -> Any | None:
        pool: Pool | None = self._table.pools.get(name)
        if pool is None:
            return None
        found = _Cluster()
        found.CopyFrom(_CLUSTER)
        found.name = name
        found.circuit_breakers.thresholds.add().max_requests.value = pool.max_in_flight
        return found

    def _endpoints(self, name: str) -> Any | None:
        if name not in self._table.pools:
            return None
        found = _LoadAssignment(cluster_name=name)
        weights, groups = self._weights(name), self._pools.get(name, ())
        # Priorities must follow each other without a gap.
        for priority, members in enumerate([group for group in groups if group]):
            for endpoint, configured in members.items():
                locality = found.endpoints.add(priority=priority)
                locality.locality.zone, locality.locality.sub_zone = "default", str(endpoint)
                locality.load_balancing_weight.value = weights.get(endpoint, configured)
                member = locality.lb_endpoints.add()
                address = member.endpoint.address.socket_address
                address.address, address.port_value = endpoint.host, endpoint.port
        return found
