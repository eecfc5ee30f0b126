"""Envoy's bootstrap: how it reaches the control plane, which tells it everything else. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

CONTROL_CLUSTER = "control-plane"  # xDS and load reports
OWN_CLUSTER = "own-services"  # health and reflection: callers cannot crowd out the above
# In the metadata of an Envoy's node: the address that it takes calls at.
LISTEN_METADATA = "listen"

_TYPE = "type.googleapis.com/"

# Limits that no other message has.
_RUNTIME: Json = {
    # Rapid reset (CVE-2023-44487): a connection is closed when half of its first N calls, or of all later ones, were
    # cancelled within a second. Callers with deadlines of 100 ms cancel calls in earnest when their model is
    # overloaded, and grpcio sends all of a process's calls over one connection: Envoy's default of 500 would break
    # off the good ones among them. N costs an attacker who cancels at once about as many calls per connection,
    # which at 100 µs each is less than a second of one core before the connection is gone.
    "overload.premature_reset_total_stream_count": 10_000,
    "overload.premature_reset_min_stream_lifetime_seconds": 1,
    # Calls taken from one connection before the others get their turn, so that a burst on one does not stall them.
    "http.max_requests_per_io_cycle": 64,
}
LIVE_RUNTIME = "live"  # the layer that the control plane can change

# More than one process can hold. The limit that counts is the public listener's, which the configuration can change
# while Envoy runs: see listener_limits.live_runtime.
_MAX_CONNECTIONS = 1_000_000


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """What differs from one gateway to the next."""

    control: str | tuple[str, int]  # of the control plane: a Unix socket's path, or a host and a port
    admin_socket: str
    node_id: str = "gateway"
    listen: str = ""  # HOST:PORT to take calls at; "" leaves it to the control plane


def bootstrap(options: BootstrapOptions) -> Json:
    """The whole bootstrap in Envoy's JSON form."""
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": options.node_id, "cluster": "dl-gateway"}
        | ({"metadata": {LISTEN_METADATA: options.listen}} if options.listen else {}),
        "admin": {"address": {"pipe": {"path": options.admin_socket, "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": _control_api(options.control) | {"set_node_on_first_message_only": True},
            "cds_config": ads | {"initial_fetch_timeout": "10s"},
            "lds_config": ads | {"initial_fetch_timeout": "10s"},
        },
        "cluster_manager": {"load_stats_config": _control_api(options.control)},
        "static_resources": {
            "clusters": [_control_cluster(name, options.control) for name in (CONTROL_CLUSTER, OWN_CLUSTER)],
        },
        "layered_runtime": {
            "layers": [
                {"name": "limits", "static_layer": _RUNTIME},
                {
                    "name": LIVE_RUNTIME,
                    "rtds_layer": {
                        "name": LIVE_RUNTIME,
                        "rtds_config": ads | {"initial_fetch_timeout": "10s"},
                    },
                },
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _TYPE + "envoy.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _MAX_CONNECTIONS,
                    },
                }
            ]
        },
    }


def _control_api(control: str | tuple[str, int]) -> Json:
    service: Json = {"cluster_name": CONTROL_CLUSTER}
    if isinstance(control, str):
        # Our own control plane is back within a second when it starts again: so is the stream. One elsewhere may be
        # away for long, and every attempt is a line in the log.
        service["retry_policy"] = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
    return {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": service}]}


def _control_cluster(name: str, control: str | tuple[str, int]) -> Json:
    http2: Json = {}
    address: Json
    if isinstance(control, str):
        kind, address = "STATIC", {"pipe": {"path": control}}
    else:
        host, port = control
        kind, address = "STRICT_DNS", {"socket_address": {"address": host, "port_value": port}}
        # A machine that is gone without a word would leave the stream open, and this Envoy without news.
        http2 = {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}
    return {
        "name": name,
        "type": kind,
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": http2},
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
