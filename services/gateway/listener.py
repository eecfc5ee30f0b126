"""The public listener: what callers connect to, and by which filters a call passes. Pure.

Without TLS, gRPC (HTTP/2 from its first byte) has a filter chain of its own, so that it does not pay for the filters
of browsers and curl, which speak HTTP/1.1 there. With TLS both speak HTTP/2 and share one.

A change of what this module makes replaces the filter chains: Envoy finishes the calls of their connections and tells
the callers to open new ones. Certificates, routes and what routes say to the filters change without that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.gateway import access, listener_limits, metrics_access_log, observe, tls, web
from services.gateway.filter import module
from services.gateway.listener_limits import (
    CONNECTION_BUFFER_BYTES,
    HANDSHAKE_TIMEOUT,
)
from services.gateway.listener_replies import local_replies
from services.gateway.names import DEFAULT_MAX_MESSAGE_BYTES, DRAIN_S, LISTENER, ROUTES, STATS
from services.gateway.table import Table
from services.gateway.xds_messages import parse

Json = dict[str, Any]
Files = Mapping[Path, bytes]

_TYPE = "type.googleapis.com/"
_HTTP = _TYPE + "envoy.extensions.filters.http."

# Of the addresses for documentation (RFC 5737), the one that no host may have. Without any address in a list Envoy
# trusts its own default, which is every private network.
_NOBODY: Json = {"address_prefix": "192.0.2.0", "prefix_len": 32}


@dataclass(frozen=True, slots=True)
class ListenerOptions:
    """What is given on the command line and stays for as long as the gateway runs."""

    host: str
    port: int
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    counters: Path | None = None  # where calls are counted; see metrics_counters.py


def listener(options: ListenerOptions, table: Table, files: Files) -> Any:
    """The listener as Envoy's message. `files` holds what `Table.files()` names; see `listener_files.check_files`."""
    return parse("envoy.config.listener.v3.Listener", _listener(options, table, files))


def _listener(options: ListenerOptions, table: Table, files: Files) -> Json:
    return {
        "name": LISTENER,
        "stat_prefix": STATS,
        "address": {"socket_address": {"address": options.host, "port_value": options.port}},
        "per_connection_buffer_limit_bytes": CONNECTION_BUFFER_BYTES,
        "tcp_backlog_size": 4096,
    } | _chains(options, table, files)


def _chains(options: ListenerOptions, table: Table, files: Files) -> Json:
    edge = table.edge
    before = web.filters(edge, options.max_message_bytes)
    if edge.tls is not None:
        chain = _chain("tls", _connection_manager(options, table, files, before))
        chain["transport_socket"] = tls.listener_socket(edge.tls)
        chain["transport_socket_connect_timeout"] = HANDSHAKE_TIMEOUT
        return {"filter_chains": [chain]}
    grpc = _chain("grpc", _connection_manager(options, table, files, []))
    if not before:
        return {"filter_chains": [grpc]}
    return {
        "listener_filters": [
            {
                "name": "http_inspector",
                "typed_config": {
                    "@type": _TYPE + "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
                },
            }
        ],
        "listener_filters_timeout": HANDSHAKE_TIMEOUT,
        "filter_chains": [grpc | {"filter_chain_match": {"application_protocols": ["h2c"]}}],
        "default_filter_chain": _chain("web", _connection_manager(options, table, files, before)),
    }


def _chain(name: str, connection_manager: Json) -> Json:
    return {"name": name, "filters": [{"name": "http", "typed_config": connection_manager}]}


def _connection_manager(options: ListenerOptions, table: Table, files: Files, before: list[Json]) -> Json:
    closed = access.closed(table)
    observed = observe.connection_manager(table.edge)
    return {
        "@type": _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STATS,
        "codec_type": "AUTO",
        "rds": {
            "route_config_name": ROUTES,
            "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "10s"},
        },
        "http_filters": [*before, _routing_filter(options), *access.filters(table, files), _router()],
        "local_reply_config": local_replies(options.max_message_bytes, closed=closed, web=table.edge.web),
        # Callers are not trusted with x-envoy-* headers, which could change timeouts and retries: nobody's address is
        # internal, so Envoy removes what they sent. Nor with x-forwarded-for, in which they could claim any address,
        # also that of nobody: so many proxies before us would have to have added to it that it is never believed.
        "use_remote_address": False,
        "internal_address_config": {"unix_sockets": False, "cidr_ranges": [_NOBODY]},
        "xff_num_trusted_hops": 1_000_000,
        "skip_xff_append": True,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": False,
        "drain_timeout": f"{DRAIN_S}s",
        "http2_protocol_options": listener_limits.http2(options.max_message_bytes),
        **listener_limits.CONNECTION_MANAGER,
        **(access.EARLY if closed or observed else {}),
        **observed,
        "access_log": [*observed.get("access_log", ()), *metrics_access_log.entries(options.counters)],
    }


def _routing_filter(options: ListenerOptions) -> Json:
    return {
        "name": "task",
        "typed_config": {
            "@type": _HTTP + "dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {"name": module.NAME},
            "filter_name": "task",
            "filter_config": {
                "@type": _TYPE + "google.protobuf.StringValue",
                "value": module.configuration(options.max_message_bytes),
            },
        },
    }


def _router() -> Json:
    return {
        "name": "router",
        "typed_config": {"@type": _HTTP + "router.v3.Router", "suppress_envoy_headers": True},
    }
