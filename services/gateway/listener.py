"""The public listener: what callers connect to, how a call is read, and explicit limits. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from services.gateway.filter import module
from services.gateway.methods import TASK_HEADER
from services.gateway.xds_messages import parse

Json = dict[str, Any]

LISTENER = "public"
ROUTES = "tasks"  # the name of the route configuration
STATS = "public"  # prefix of the listener's statistics: http.public.*

_TYPE = "type.googleapis.com/"
_HTTP = _TYPE + "envoy.extensions.filters.http."

MIB = 1 << 20
DEFAULT_MAX_MESSAGE_BYTES = 10 * MIB
DRAIN_S = 1  # from telling callers to go elsewhere until it is final
_FRAME_BYTES = 5  # a gRPC message travels behind one flag byte and four bytes of length


@dataclass(frozen=True, slots=True)
class ListenerOptions:
    """What is given on the command line and stays for as long as the gateway runs."""

    host: str
    port: int
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES


def listener(options: ListenerOptions) -> Any:
    """The listener as Envoy's message."""
    return parse("envoy.config.listener.v3.Listener", _listener(options))


def _listener(options: ListenerOptions) -> Json:
    return {
        "name": LISTENER,
        "stat_prefix": STATS,
        "address": {"socket_address": {"address": options.host, "port_value": options.port}},
        "per_connection_buffer_limit_bytes": MIB,
        "tcp_backlog_size": 4096,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "http",
                        "typed_config": _connection_manager(options),
                    }
                ]
            }
        ],
    }


def _connection_manager(options: ListenerOptions) -> Json:
    return {
        "@type": _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STATS,
        "codec_type": "AUTO",
        "rds": {
            "route_config_name": ROUTES,
            "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "10s"},
        },
        "http_filters": [
            {
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
            },
            {
                "name": "router",
                "typed_config": {"@type": _HTTP + "router.v3.Router", "suppress_envoy_headers": True},
            },
        ],
        "local_reply_config": _local_replies(options),
        # Callers are not trusted with x-envoy-* headers, which could change timeouts and retries: with no
        # internal address range every caller is external, and Envoy removes what they sent.
        "use_remote_address": False,
        "internal_address_config": {
            "unix_sockets": False,
            "cidr_ranges": [{"address_prefix": "192.0.2.0", "prefix_len": 32}],
        },  # a documentation range: nobody
        "skip_xff_append": True,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": False,
        "stream_idle_timeout": "300s",
        "request_headers_timeout": "10s",
        "delayed_close_timeout": "1s",
        "drain_timeout": f"{DRAIN_S}s",
        "max_request_headers_kb": 32,
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "max_headers_count": 100,
            "headers_with_underscores_action": "ALLOW",  # gRPC metadata may have them
        },
        "http2_protocol_options": _http2_limits(options.max_message_bytes + _FRAME_BYTES),
    }


def _http2_limits(largest: int) -> Json:
    return {
        "max_concurrent_streams": 1024,
        "hpack_table_size": 4096,
        # Envoy holds no more of a request than its stream window, so the window is the message limit. A whole
        # message then travels without waiting for window updates. The connection's window bounds what one
        # caller has on the way to us.
        "initial_stream_window_size": max(largest, MIB),
        "initial_connection_window_size": max(2 * largest, 16 * MIB),
        # Floods of control frames close the connection (CVE-2019-9511 to 9518 and kin).
        "max_outbound_frames": 10_000,
        "max_outbound_control_frames": 1000,
        "max_consecutive_inbound_frames_with_empty_payload": 1,
        "max_inbound_priority_frames_per_stream": 100,
        "max_inbound_window_update_frames_per_data_frame_sent": 10,
        "override_stream_error_on_invalid_http_message": True,
        # A caller whose machine vanished must not hold its streams for ever.
        "connection_keepalive": {"interval": "60s", "timeout": "20s"},
    }


# What callers read when the gateway itself answers: (Envoy's response flags, gRPC status, message). First
# match.
_TASK = f"task %REQ({TASK_HEADER})%"
_BY_FLAG: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("UH",), 14, f"{_TASK} has no healthy instance: start one, or correct its line in the node file"),
    (("UO",), 8, f"{_TASK} has too many calls in flight: slow down, or add instances"),
    (
        ("UT", "UPE", "SI", "DT"),
        4,
        f"{_TASK} did not answer in time: raise the deadline or the task's timeout," " or add instances",
    ),
    (("NC",), 14, f"{_TASK} is being set up: try again"),
    (
        ("UF",),
        14,
        f"{_TASK}: no instance could be reached (%UPSTREAM_TRANSPORT_FAILURE_REASON%): start one, or"
        " correct its line in the node file",
    ),
    (("UC", "UR", "LR"), 14, f"{_TASK}: the instance broke off before it answered"),
)


def _local_replies(options: ListenerOptions) -> Json:
    mappers = [
        _reply({"response_flag_filter": {"flags": list(flags)}}, status, message)
        for flags, status, message in _BY_FLAG
    ]
    mappers += [
        _reply(_status_is(404), 5, f"{_TASK} is not in the node file of this gateway"),
        _reply(_status_is(413), 8, f"the request is larger than {options.max_message_bytes} bytes"),
        _reply(_status_is(408), 4, "the request did not arrive in time"),
    ]
    return {"mappers": mappers}


def _reply(match: Json, grpc_status: int, message: str) -> Json:
    # Replies of the filter carry a status of their own already and pass untouched.
    return {
        "filter": match,
        "headers_to_add": [
            {
                "header": {"key": "grpc-status", "value": str(grpc_status)},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        "body_format_override": {"text_format_source": {"inline_string": message}},
    }


def _status_is(code: int) -> Json:
    return {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": "none"}}
        }
    }
