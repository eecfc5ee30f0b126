"""Envoy's bootstrap: how it reaches the control plane, which tells it everything else. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

CONTROL_CLUSTER = "control-plane"

_TYPE = "type.googleapis.com/"


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """What differs from one gateway to the next."""

    control_socket: str
    admin_socket: str
    max_connections: int = 50_000
    node_id: str = "gateway"


def bootstrap(options: BootstrapOptions) -> Json:
    """The whole bootstrap in Envoy's JSON form."""
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": options.node_id, "cluster": "dl-gateway"},
        "admin": {"address": {"pipe": {"path": options.admin_socket, "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": _control_api() | {"set_node_on_first_message_only": True},
            "cds_config": ads | {"initial_fetch_timeout": "10s"},
            "lds_config": ads | {"initial_fetch_timeout": "10s"},
        },
        "cluster_manager": {"load_stats_config": _control_api()},
        "static_resources": {
            "clusters": [_control_cluster(options.control_socket)],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _TYPE + "envoy.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": options.max_connections,
                    },
                }
            ]
        },
    }


def _control_api() -> Json:
    return {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": CONTROL_CLUSTER}}],
    }


def _control_cluster(socket: str) -> Json:
    return {
        "name": CONTROL_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
        "load_assignment": {
            "cluster_name": CONTROL_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
    }
