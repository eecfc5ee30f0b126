"""What callers read when the gateway itself answers: status and text for each way to refuse a call. Pure."""

from __future__ import annotations

from typing import Any

from services.gateway.access import KEY_HEADER
from services.gateway.methods import TASK_HEADER, WPAI

Json = dict[str, Any]

_TASK = f"task %REQ({TASK_HEADER})%"
_CEL = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"

_SPOKEN = (
    "this port speaks gRPC (HTTP/2, content-type application/grpc), and over HTTP/1.1 or TLS gRPC-Web (content-type"
    ' application/grpc-web) and JSON: POST a request like {"modelSpec": {"name": "textcnn-69"}} to /<service>/<method>,'
    f" for example /{WPAI}/Predict\n"
)

# (Envoy's response flags, gRPC status, message). First match.
_BY_FLAG: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (
        ("UH",),
        14,
        f"{_TASK} has no healthy instance: start one, or correct its addresses in the gateway's configuration",
    ),
    (("UO",), 8, f"{_TASK} has too many calls in flight: slow down, or add instances"),
    (
        ("UT", "UPE", "SI", "DT"),
        4,
        f"{_TASK} did not answer in time: raise the deadline or the task's timeout, or add instances",
    ),
    (("NC",), 14, f"{_TASK} is being set up: try again"),
    (
        ("UF",),
        14,
        f"{_TASK}: no instance could be reached (%UPSTREAM_TRANSPORT_FAILURE_REASON%): start one, or"
        " correct its addresses in the gateway's configuration",
    ),
    (("UC", "UR", "LR"), 14, f"{_TASK}: the instance broke off before it answered"),
)

# (what Envoy's filters say of the refusal, gRPC status, message)
_BY_DETAILS: tuple[tuple[str, int, str], ...] = (
    ("missing_api_key", 16, f"{_TASK} needs an API key: send it as the metadata {KEY_HEADER}"),
    # As Envoy spells it, today and after a correction.
    (
        "unkonwn_api_key",
        16,
        f"the API key in the metadata {KEY_HEADER} is not known here: ask who runs the gateway for one",
    ),
    (
        "unknown_api_key",
        16,
        f"the API key in the metadata {KEY_HEADER} is not known here: ask who runs the gateway for one",
    ),
    (
        "client_not_allowed",
        7,
        f"this API key's client may not call {_TASK}: ask who runs the gateway to add it to the task's clients",
    ),
)


def local_replies(max_message_bytes: int, *, closed: bool, web: bool) -> Json:
    """The listener's `local_reply_config`. `closed`: some task asks who the caller is. `web`: JSON and gRPC-Web are
    spoken on this port, over HTTP/1.1 where there is no TLS."""
    # Before the flags: the route of unknown tasks leads to no cluster, which has a flag too.
    mappers = [_reply(_status_is(404), 5, f"{_TASK} is not configured in this gateway")]
    mappers += [
        _reply({"response_flag_filter": {"flags": list(flags)}}, status, message)
        for flags, status, message in _BY_FLAG
    ]
    if closed:
        mappers += [
            _reply(_details(f"response.code_details == '{details}'"), status, message)
            for details, status, message in _BY_DETAILS
        ]
        mappers += [
            _reply(
                _both(_details("response.code_details.startsWith('jwt_authn')"), _status_is(code)),
                status,
                f"{_TASK} needs a token: %LOCAL_REPLY_BODY%; send the metadata authorization: Bearer <token>",
            )
            for code, status in ((401, 16), (403, 7))
        ]
    mappers += [
        _reply(_status_is(413), 8, f"the request is larger than {max_message_bytes} bytes"),
        _reply(_status_is(408), 4, "the request did not arrive in time"),
        _reply(
            _status_is(429),
            8,
            f"{_TASK} is limited to %RESP(X-DL-LIMIT)% calls a second: slow down, or have its max_qps raised",
        ),
    ]
    if web:
        mappers.append({"filter": _status_is(415), "body_format_override": _text(_SPOKEN)})
    return {"mappers": mappers}


def _reply(match: Json, grpc_status: int, message: str) -> Json:
    # Replies of the routing filter carry a status of their own already and pass untouched.
    return {
        "filter": match,
        "headers_to_add": [
            {
                "header": {"key": "grpc-status", "value": str(grpc_status)},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        "body_format_override": _text(message),
    }


def _text(message: str) -> Json:
    return {"text_format_source": {"inline_string": message}}


def _status_is(code: int) -> Json:
    return {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": "none"}}
        }
    }


def _details(expression: str) -> Json:
    return {"extension_filter": {"name": "cel", "typed_config": {"@type": _CEL, "expression": expression}}}


def _both(*filters: Json) -> Json:
    return {"and_filter": {"filters": list(filters)}}
