"""gRPC-Web and JSON for browsers and curl: Envoy's filters before the routing filter. Pure.

A request of either kind is turned into a gRPC request and its answer back, so everything behind sees gRPC alone.
`POST /<service>/<method>` with a JSON body is a call of that method; bytes are base64, an error is a JSON object
`{"code": 5, "message": "..."}` with the HTTP status that fits the gRPC status.
"""

from __future__ import annotations

import base64
import functools
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2

from libs.proto.services import WPAI_DESCRIPTOR
from services.gateway.access import KEY_HEADER
from services.gateway.methods import METHODS, REFLECTION, TASK_HEADER
from services.gateway.table import Edge
from services.gateway.xds_messages import message_class, pack

Json = dict[str, Any]

CORS, GRPC_WEB, JSON = "cors", "grpc_web", "json"  # names of the filters in the chain

_HTTP = "type.googleapis.com/envoy.extensions.filters.http."
_CorsPolicy = message_class("envoy.extensions.filters.http.cors.v3.CorsPolicy")

# What a web page may send beside what browsers always allow, and what it may read of the answer.
_REQUEST_HEADERS = (
    "content-type",
    "authorization",
    "grpc-timeout",
    "x-grpc-web",
    "x-user-agent",
    "x-request-id",
    KEY_HEADER,
    TASK_HEADER,
)
_RESPONSE_HEADERS = ("grpc-status", "grpc-message", "x-request-id")
_PREFLIGHT_S = 7200  # browsers keep the answer this long; Chrome no longer


def filters(edge: Edge, max_message_bytes: int) -> list[Json]:
    """The filters in order, in Envoy's JSON form; none where `edge.web` is off."""
    if not edge.web:
        return []
    found = [
        _filter(GRPC_WEB, "grpc_web.v3.GrpcWeb"),
        _filter(
            JSON,
            "grpc_json_transcoder.v3.GrpcJsonTranscoder",
            proto_descriptor_bin=base64.b64encode(descriptor_set()).decode(),
            services=list(_services()),
            auto_mapping=True,
            convert_grpc_status=True,
            # {"outputs": {}} and {"live": false} say more than {}.
            print_options={"always_print_primitive_fields": True, "preserve_proto_field_names": False},
            max_request_body_size=max_message_bytes,
            max_response_body_size=max_message_bytes,
        ),
    ]
    if edge.cors_origins:
        found.insert(0, _filter(CORS, "cors.v3.Cors"))
    return found


def per_host(edge: Edge) -> dict[str, Any]:
    """What the virtual host says to the filters: values of its `typed_per_filter_config` by name."""
    if not edge.web or not edge.cors_origins:
        return {}
    policy = _CorsPolicy(
        allow_methods="POST, OPTIONS",
        allow_headers=", ".join(_REQUEST_HEADERS),
        expose_headers=", ".join(_RESPONSE_HEADERS),
        max_age=str(_PREFLIGHT_S),
    )
    for origin in edge.cors_origins:
        matcher = policy.allow_origin_string_match.add()
        if origin == "*":
            matcher.safe_regex.regex = ".*"
        else:
            matcher.exact = origin
    return {CORS: pack(policy)}


@functools.cache
def descriptor_set() -> bytes:
    """The files of every service that speaks JSON, each after its imports, as a FileDescriptorSet."""
    found = FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        file.CopyToProto(found.file.add())

    # The entry's file imports those of the backends' services.
    add(WPAI_DESCRIPTOR)
    add(health_pb2.DESCRIPTOR)
    return found.SerializeToString(deterministic=True)


def _services() -> tuple[str, ...]:
    """Reflection is for gRPC tools: it streams, which JSON over HTTP does not."""
    names = dict.fromkeys(method.path.split("/")[1] for method in METHODS)
    return tuple(name for name in names if name not in REFLECTION)


def _filter(name: str, type_name: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": _HTTP + type_name, **fields}}
