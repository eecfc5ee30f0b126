"""Pools -> Envoy's clusters: how calls are spread, how instances are checked, and what is too much. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.balancing.policy import PolicyName
from libs.balancing.tuning import DEFAULT
from services.gateway.methods import HEALTH
from services.gateway.table import HealthCheck, Pool
from services.gateway.tls import pool_socket
from services.gateway.xds_messages import message_class, parse

Json = dict[str, Any]

# Tells the instances of a fallback pool from those of the pool that they stand in for.
SOCKET_MATCH, GROUP = "envoy.transport_socket_match", "group"

_TYPE = "type.googleapis.com/"
_Cluster = message_class("envoy.config.cluster.v3.Cluster")
_TransportSocket = message_class("envoy.config.core.v3.TransportSocket")

# The same for every pool. What a line of a node file says goes into a route (timeout) and a load assignment
# (instances), so that no edit of one changes a cluster that carries traffic: Envoy builds a changed cluster anew.
_CLUSTER: dict[str, Any] = {
    "type": "EDS",
    "eds_cluster_config": {
        "eds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}
    },
    # Instances are a few milliseconds away; a connection attempt that takes longer than this is better spent
    # on another one, within the deadline.
    "connect_timeout": "0.25s",
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{_TYPE}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"idle_timeout": "600s"},
            "explicit_http_config": {
                "http2_protocol_options": {
                    "max_concurrent_streams": 1024,
                    "initial_stream_window_size": 1 << 20,
                    "initial_connection_window_size": 16 << 20,
                    # A call on a connection that has brought nothing for this long sends a ping along, and without an
                    # answer in time the connection is closed and its calls go to another instance: a frozen instance
                    # or a lost machine costs a call 0.6 s, not its deadline. No pings at fixed intervals: gRPC servers
                    # take those for abuse (two may come without data in between) and break off the calls in flight;
                    # a new call makes them write, and the count starts anew.
                    "connection_keepalive": {"connection_idle_interval": "0.3s", "timeout": "0.3s"},
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
    # A removed instance leaves at once, and its calls in flight finish.
    "ignore_health_on_host_removal": True,
    # What calls themselves show. Local origin: refused, reset, timed out. An instance that fails at once attracts calls
    # by having none in flight, and a failed call is not asked again: few have to be enough, and the first ejection so
    # long that its trials (as many failures each) stay under a thousandth of the calls. It grows with each repetition,
    # and no good health check ends it: such an instance may pass those.
    "outlier_detection": {
        "split_external_local_origin_errors": True,
        # Refused, reset, timed out. Few of these in a row, and callers in a hurry get every instance ejected.
        "consecutive_local_origin_failure": 20,
        "enforcing_consecutive_local_origin_failure": 100,
        "consecutive_gateway_failure": 3,
        "enforcing_consecutive_gateway_failure": 100,
        "consecutive_5xx": 3,
        "enforcing_consecutive_5xx": 100,
        # Half of an instance's answers within an interval are failures. Calls without an answer do not count, again for
        # those in a hurry. Deviation from the others' success is no criterion: it ejects for any difference at all.
        "failure_percentage_threshold": 50,
        "failure_percentage_minimum_hosts": 2,
        "failure_percentage_request_volume": 20,
        "enforcing_failure_percentage": 100,
        "enforcing_failure_percentage_local_origin": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "5s",
        "max_ejection_time": "30s",
        "max_ejection_percent": 50,
        "successful_active_health_check_uneject_host": False,
    },
}


# The one of four random instances with the fewest calls in flight, since model calls differ in cost: among two, a small
# pool's stalled instance would be drawn twice too often; among all, a retry would meet the same again. Where weights
# differ Envoy goes by weight / (calls in flight + 1)^bias. Slow start is in the weights. Numbers: docs/balancing.md.
_LEAST_REQUEST: Json = {
    "lb_policy": "LEAST_REQUEST",
    "least_request_lb_config": {
        "choice_count": 4,
        "active_request_bias": {
            "default_value": DEFAULT.in_flight_bias,
            "runtime_key": "upstream.active_request_bias",
        },
    },
}
_BALANCING: dict[PolicyName, Json] = {
    PolicyName.ROUND_ROBIN: {"lb_policy": "ROUND_ROBIN"},
    PolicyName.WEIGHTED: {"lb_policy": "ROUND_ROBIN"},
    PolicyName.LEAST_REQUEST: _LEAST_REQUEST,
    PolicyName.PEAK_EWMA: _LEAST_REQUEST,
}

# The first check runs when an instance is added, and one success is enough then. A refusal is known at once; the
# timeout is for silence, and long enough for the thousands of checks that a large table starts at the same moment.
# Calls find out sooner who fails (outlier detection, weights), and a check costs Envoy 80 µs: with an instance checked
# every 3 s, and every 15 s in a pool that had no call yet, a thousand pools of four cost a tenth of a core.
_CHECK: Json = {
    "timeout": "2s",
    "interval": "3s",
    "interval_jitter": "0.2s",
    "no_traffic_interval": "5s",
    "no_traffic_healthy_interval": "15s",
    "unhealthy_interval": "0.5s",
    "unhealthy_threshold": 2,
    "healthy_threshold": 1,
}
_CHECKS: dict[HealthCheck, Json] = {
    HealthCheck.TCP: {"tcp_health_check": {}},  # whatever protocol the instance speaks
    HealthCheck.GRPC: {"grpc_health_check": {}},
    # A gRPC call of the health service with an empty message. That an instance does not have the service is an answer
    # as good as any: it proves that the process is not frozen, which an accepted connection does not, since the kernel
    # accepts those.
    HealthCheck.HTTP2: {
        "http_health_check": {
            "path": f"/{HEALTH}/Check",
            "method": "POST",
            "codec_client_type": "HTTP2",
            "send": {
                "text": "0000000000"
            },  # not compressed, no bytes (gRPC over HTTP/2: length-prefixed message)
            "request_headers_to_add": [
                {"header": {"key": "content-type", "value": "application/grpc"}},
                {"header": {"key": "te", "value": "trailers"}},
            ],
            "expected_statuses": [{"start": 200, "end": 600}],
        }
    },
}

# Lets one instance of a small pool die with all that it had in flight, and each of those calls still be retried.
_MIN_RETRIES = 512


def cluster(pool: Pool, stand_ins: Sequence[Pool] = (), check: HealthCheck = HealthCheck.HTTP2) -> Any:
    """The cluster of a pool. `stand_ins` are the pools that take over for it, in order; `check` is what `auto` means
    for it now."""
    found = _Cluster()
    found.CopyFrom(
        _TEMPLATES[pool.policy, check if pool.health_check == HealthCheck.AUTO else pool.health_check]
    )
    found.name = pool.name
    limits = found.circuit_breakers.thresholds.add()
    limits.max_connections.value = max(10_000, pool.max_in_flight)
    limits.max_requests.value = pool.max_in_flight
    limits.max_pending_requests.value = pool.max_queued
    limits.retry_budget.budget_percent.value = pool.retry_budget_percent
    limits.retry_budget.min_retry_concurrency.value = _MIN_RETRIES if pool.retry_budget_percent else 0
    own = pool_socket(pool)
    if own is not None:
        found.transport_socket.CopyFrom(own)
    if stand_ins:
        _lean_on_stand_ins(found)
    for number, stand_in in enumerate(stand_ins, start=1):
        if stand_in.tls != pool.tls:
            matched = found.transport_socket_matches.add(name=stand_in.name)
            matched.match[GROUP] = str(number)
            matched.transport_socket.CopyFrom(pool_socket(stand_in) or _PLAINTEXT)
    return found


def _lean_on_stand_ins(found: Any) -> None:
    """All of a pool's instances may be ejected when others wait, and nobody else finds out that all are down."""
    found.outlier_detection.max_ejection_percent.value = 100
    for check in found.health_checks:
        for interval in (check.interval, check.no_traffic_interval, check.no_traffic_healthy_interval):
            interval.FromSeconds(1)


_PLAINTEXT = parse(
    "envoy.config.core.v3.TransportSocket",
    {
        "name": "plaintext",
        "typed_config": {"@type": f"{_TYPE}envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"},
    },
)


def _template(policy: PolicyName, check: HealthCheck) -> Any:
    checks = {"health_checks": [_CHECK | _CHECKS[check]]} if check in _CHECKS else {}
    return parse("envoy.config.cluster.v3.Cluster", _CLUSTER | _BALANCING[policy] | checks)


_TEMPLATES = {(policy, check): _template(policy, check) for policy in PolicyName for check in HealthCheck}
