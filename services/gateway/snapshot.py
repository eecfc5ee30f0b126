"""Routing table, addresses and weights -> Envoy's resources. Pure: same input, same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.message import Message

from libs.balancing.endpoint import Endpoint
from services.gateway import access, web
from services.gateway.bootstrap import CONTROL_CLUSTER
from services.gateway.listener import ROUTES
from services.gateway.methods import CONTROL, TASK_HEADER
from services.gateway.observe import COLLECTOR
from services.gateway.table import Edge, Pool, Table, Task
from services.gateway.tls import pool_socket
from services.gateway.xds_messages import message_class, pack, parse

INSTANCE_HEADER = "x-dl-instance"

_Cluster = message_class("envoy.config.cluster.v3.Cluster")
_ClusterLoadAssignment = message_class("envoy.config.endpoint.v3.ClusterLoadAssignment")
_HeaderInput = message_class("envoy.type.matcher.v3.HttpRequestHeaderMatchInput")
_Route = message_class("envoy.config.route.v3.Route")
_RouteConfiguration = message_class("envoy.config.route.v3.RouteConfiguration")
_VirtualHost = message_class("envoy.config.route.v3.VirtualHost")

_TYPE = "type.googleapis.com/"

# A pool's instances with their configured weights: one group, or more where another pool stands in for it, in
# order of preference.
Groups = Sequence[Mapping[Endpoint, int]]
Weights = Mapping[str, Mapping[Endpoint, int]]


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource, ready to send. Its version is a hash: equal content is never resent."""

    body: Any  # google.protobuf.Any
    version: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the data plane is to hold. Replaced whole, never changed."""

    clusters: Mapping[str, Resource] = field(default_factory=dict)
    endpoints: Mapping[str, Resource] = field(default_factory=dict)
    routes: Resource | None = None
    listeners: Mapping[str, Resource] = field(default_factory=dict)
    secrets: Mapping[str, Resource] = field(default_factory=dict)

    def with_endpoints(self, changed: Mapping[str, Resource]) -> Snapshot:
        """The same snapshot with some pools' endpoints replaced."""
        return replace(self, endpoints={**self.endpoints, **changed})


def resolve(table: Table, addresses: Mapping[str, Sequence[str]]) -> dict[str, list[dict[Endpoint, int]]]:
    """Each pool's groups by its name: host names replaced by all of their addresses, each instance once.

    A name that `addresses` lacks has none: its pool has fewer instances until it resolves.
    """
    own = {name: _members(pool, addresses) for name, pool in table.pools.items()}
    return {name: [own[pool.name] for pool in table.chain(name)] for name in table.pools}


def _members(pool: Pool, addresses: Mapping[str, Sequence[str]]) -> dict[Endpoint, int]:
    found: dict[Endpoint, int] = {}
    for endpoint, weight in pool.members.items():
        hosts = addresses.get(endpoint.host, ()) if endpoint.is_name else (endpoint.host,)
        for host in hosts:
            found.setdefault(Endpoint(host, endpoint.port), weight)
    return found


def build(
    table: Table,
    pools: Mapping[str, Groups],
    weights: Weights,
    *,
    listeners: Mapping[str, Message] | None = None,
    secrets: Mapping[str, Message] | None = None,
    collector: Message | None = None,
) -> Snapshot:
    """The snapshot of a table. A pool that is missing has no instance; a weight that is, the configured one.

    `collector` is the cluster that takes spans.
    """
    clusters = {pool.name: _resource(_cluster(pool)) for pool in table.pools.values()}
    if collector is not None:
        clusters[COLLECTOR] = _resource(collector)
    return Snapshot(
        clusters=clusters,
        endpoints={
            name: load_assignment(name, pools.get(name, ()), weights.get(name, {})) for name in table.pools
        },
        routes=_resource(_routes(table)),
        listeners={name: _resource(message) for name, message in (listeners or {}).items()},
        secrets={name: _resource(message) for name, message in (secrets or {}).items()},
    )


def load_assignment(cluster: str, groups: Groups, weights: Mapping[Endpoint, int]) -> Resource:
    """One pool's instances as EDS has them: the dynamic weights where there are any, else the configured ones.

    The second group is used while too few of the first are healthy, and so on.
    """
    assignment = _ClusterLoadAssignment(cluster_name=cluster)
    for priority, members in enumerate(groups if any(groups) else ()):
        # The locality must not be empty: load reports are kept by locality.
        group = assignment.endpoints.add(priority=priority)
        group.locality.zone = "default"
        group.load_balancing_weight.value = 1
        for endpoint, configured in members.items():
            member = group.lb_endpoints.add()
            address = member.endpoint.address.socket_address
            address.address, address.port_value = endpoint.host, endpoint.port
            member.load_balancing_weight.value = weights.get(endpoint, configured)
    return _resource(assignment)


def _resource(message: Message) -> Resource:
    body = pack(message)
    return Resource(body, hashlib.blake2b(body.value, digest_size=8).hexdigest())


# The same for every task, so that no edit of the node file changes a cluster that carries traffic: what a
# line says goes into its route (timeout) and its load assignment (instances).
_CLUSTER: dict[str, Any] = {
    "type": "EDS",
    "eds_cluster_config": {
        "eds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}
    },
    # Instances are a few milliseconds away; a connection attempt that takes longer than this is better spent
    # on another one, within the deadline.
    "connect_timeout": "0.25s",
    # Least loaded of two random instances, by calls in flight, since model calls differ in cost. Where
    # weights differ Envoy divides them by the calls in flight.
    "lb_policy": "LEAST_REQUEST",
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{_TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"idle_timeout": "600s"},
            "explicit_http_config": {
                "http2_protocol_options": {
                    "max_concurrent_streams": 1024,
                    "initial_stream_window_size": 1 << 20,
                    "initial_connection_window_size": 16 << 20,
                    # Asks a connection that was idle for a sign of life before it carries a call. No pings at
                    # fixed intervals: gRPC servers take them for abuse (two may come without data in between)
                    # and then break off the calls in flight, so any call of more than a few seconds would
                    # fail.
                    "connection_keepalive": {"connection_idle_interval": "5s", "timeout": "1s"},
                }
            },
        }
    },
    "common_lb_config": {
        # When no instance is known to be healthy, try them all: refused connections answer UNAVAILABLE as
        # fast, and a pool whose instances were all replaced takes calls before their first check is over.
        "healthy_panic_threshold": {"value": 1},
        # Envoy would otherwise hold back updates of health and weight for a second, to merge them.
        "update_merge_window": "0s",
    },
    # A TCP connection proves that the process listens, whatever protocol the backend speaks. The first check
    # runs when an instance is added, and one success is enough then. A refusal is known at once; the timeout
    # is for silence, and long enough for the thousands of checks that a large table starts at the same
    # moment. Idle pools are checked seldom: thousands of tasks must not cost thousands of connections a
    # second.
    "health_checks": [
        {
            "timeout": "2s",
            "interval": "1s",
            "interval_jitter": "0.2s",
            "no_traffic_interval": "5s",
            "no_traffic_healthy_interval": "15s",
            "unhealthy_interval": "0.5s",
            "unhealthy_threshold": 2,
            "healthy_threshold": 1,
            "tcp_health_check": {},
        }
    ],
    # A removed instance leaves at once, and its calls in flight finish.
    "ignore_health_on_host_removal": True,
    # What calls themselves show. Local origin: refused, reset, timed out. The ejection is short because an
    # impatient caller's timeouts also count; it grows with each repetition.
    "outlier_detection": {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 5,
        "enforcing_consecutive_local_origin_failure": 100,
        "consecutive_gateway_failure": 5,
        "enforcing_consecutive_gateway_failure": 100,
        "consecutive_5xx": 10,
        "enforcing_consecutive_5xx": 100,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "0.5s",
        "base_ejection_time": "1s",
        "max_ejection_time": "30s",
        "max_ejection_percent": 50,
    },
    "circuit_breakers": {
        "thresholds": [
            {
                "max_connections": 10_000,
                "max_pending_requests": 10_000,
                "max_requests": 10_000,
                # A fifth of the calls in flight may be retries. The floor lets one instance of a small pool
                # die with all that it had in flight, and each of those calls still be retried.
                "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 512},
            }
        ],
    },
}
_CLUSTER_TEMPLATE = parse("envoy.config.cluster.v3.Cluster", _CLUSTER)


def _cluster(pool: Pool) -> Any:
    cluster = _Cluster()
    cluster.CopyFrom(_CLUSTER_TEMPLATE)
    cluster.name = pool.name
    socket = pool_socket(pool)
    if socket is not None:
        cluster.transport_socket.CopyFrom(socket)
    return cluster


_VIRTUAL_HOST: dict[str, Any] = {
    "name": "tasks",
    "domains": ["*"],
    # Nothing was processed, or nothing of it was answered: predictions change nothing, so a second instance
    # may be asked. `unavailable` and `cancelled` are what a backend that shuts down says, in a reply that has
    # no message, to calls that it does not finish. When the caller cancels there is nobody to retry for.
    "retry_policy": {
        "retry_on": "connect-failure,refused-stream,reset,unavailable,cancelled",
        "num_retries": 1,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        # The dead one has the fewest calls in flight and would win three draws of four in a pool of two.
        "host_selection_retry_max_attempts": 64,
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.005s"},
    },
}
_VIRTUAL_HOST_TEMPLATE = parse("envoy.config.route.v3.VirtualHost", _VIRTUAL_HOST)


def _routes(table: Table) -> Any:
    routes = _RouteConfiguration(name=ROUTES)
    host = routes.virtual_hosts.add()
    host.CopyFrom(_VIRTUAL_HOST_TEMPLATE)
    for name, said in {**access.per_host(table.edge), **web.per_host(table.edge)}.items():
        host.typed_per_filter_config[name].CopyFrom(said)
    host.request_headers_to_remove.extend(access.headers_to_remove(table.edge))
    _exact_map(host.matcher, {str(t.task_id): _task_route(t, table.edge) for t in table.tasks.values()})
    return routes


def _exact_map(matcher: Any, routes: Mapping[str, Any]) -> None:
    """One hash lookup of the task header, however many tasks there are."""
    tree = matcher.matcher_tree
    tree.input.name = "task"
    tree.input.typed_config.Pack(_HeaderInput(header_name=TASK_HEADER))
    for key, route in routes.items():
        _act(tree.exact_match_map.map[key].action, route)
    _act(tree.exact_match_map.map[CONTROL].action, _control_route())
    _act(matcher.on_no_match.action, _unknown_route())


def _act(action: Any, route: Any) -> None:
    action.name = "route"
    action.typed_config.Pack(route, deterministic=True)


def _task_route(task: Task, edge: Edge) -> Any:
    route = _route(task.pool)
    route.name = str(task.task_id)  # calls are counted by it
    for name, said in access.per_route(task, edge).items():
        route.typed_per_filter_config[name].CopyFrom(said)
    action = route.route
    # Deprecated upstream in favour of max_stream_duration, which bounds the caller's deadline as well but
    # does not tell the backend: with this one Envoy caps grpc-timeout, supplies it where the caller sent
    # none, and writes the time that is left into every attempt.
    action.max_grpc_timeout.FromMilliseconds(task.timeout_ms)
    action.timeout.FromMilliseconds(task.timeout_ms)
    instance = route.response_headers_to_add.add(append_action="OVERWRITE_IF_EXISTS_OR_ADD")
    instance.header.key, instance.header.value = INSTANCE_HEADER, "%UPSTREAM_REMOTE_ADDRESS%"
    return route


def _control_route() -> Any:
    route = _route(CONTROL_CLUSTER)
    route.name = CONTROL
    route.route.timeout.FromMilliseconds(
        0
    )  # reflection and Health/Watch stream for as long as the caller likes
    return route


def _unknown_route() -> Any:
    route = _Route()
    route.match.prefix = "/"
    route.direct_response.status = 404
    return route


def _route(cluster: str) -> Any:
    route = _Route()
    route.match.prefix = "/"
    route.route.cluster = cluster
    return route
