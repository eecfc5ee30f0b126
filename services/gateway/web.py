"""gRPC-Web and JSON for browsers and curl: Envoy's filters before the routing filter. Pure.

A request of either kind is turned into a gRPC request and its answer back, so everything behind sees gRPC alone.
`POST /<service>/<method>` with a JSON body is a call of that method; bytes are base64, an error is a JSON object
`{"code": 5, "message": "..."}` with the HTTP status that fits the gRPC status.
"""

from __future__ import annotations

import base64
import functools
from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2

from libs.proto.services import WPAI_DESCRIPTOR
from services.gateway import web_guard
from services.gateway.access import KEY_HEADER
from services.gateway.methods import HEALTH, METHODS, REFLECTION, TASK_HEADER
from services.gateway.table import Edge
from services.gateway.xds_messages import message_class, pack

Json = dict[str, Any]

CORS, GRPC_WEB, JSON = "cors", "grpc_web", "json"  # names of the filters in the chain

_POOL = WPAI_DESCRIPTOR.pool  # the entry's file imports those of the backends' services
_HTTP = "type.googleapis.com/envoy.extensions.filters.http."
_CorsPolicy = message_class("envoy.extensions.filters.http.cors.v3.CorsPolicy")

_SKIP = "type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter"

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
            services=[service.full_name for service in _services()],
            auto_mapping=True,
            convert_grpc_status=True,
            max_request_body_size=max_message_bytes,
            max_response_body_size=max_message_bytes,
        ),
    ]
    if edge.cors_origins:
        found.insert(0, _filter(CORS, "cors.v3.Cors"))
    guard = web_guard.filter_config(_answers(), _files())
    return [*(_skipped_where(_IS_GRPC, each) for each in found), _skipped_where(_WAS_GRPC, guard)]


def _header(name: str, value: Json) -> Json:
    return {
        "single_predicate": {
            "input": {
                "name": name,
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                    "header_name": name,
                },
            },
            "value_match": value,
        }
    }


_IS_GRPC = _header("content-type", {"exact": "application/grpc"})
# Behind the filters that make gRPC of everything: neither does the transcoder's mark say that it was JSON, nor the
# browser's that it was gRPC-Web.
_WAS_GRPC: Json = {
    "not_matcher": {
        "or_matcher": {
            "predicate": [
                _header(name, {"safe_regex": {"google_re2": {}, "regex": ".*"}})
                for name in (web_guard.JSON_MARK, "x-grpc-web")
            ]
        }
    }
}


def _skipped_where(predicate: Json, filter_config: Json) -> Json:
    """The filter, left out of calls for which the predicate holds. With TLS browsers and gRPC callers share a filter
    chain: so the one hardly costs the other."""
    return {
        "name": filter_config["name"],
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": filter_config,
            "xds_matcher": {
                "matcher_list": {
                    "matchers": [
                        {
                            "predicate": predicate,
                            "on_match": {"action": {"name": "skip", "typed_config": {"@type": _SKIP}}},
                        }
                    ]
                }
            },
        },
    }


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
    policy.filter_enabled.default_value.numerator = 100
    policy.forward_not_matching_preflights.value = False
    for origin in edge.cors_origins:
        matcher = policy.allow_origin_string_match.add()
        if origin == "*":
            matcher.safe_regex.google_re2.SetInParent()
            matcher.safe_regex.regex = ".*"
        else:
            matcher.exact = origin
    return {CORS: pack(policy)}


@functools.cache
def descriptor_set() -> bytes:
    """The files of every service that speaks JSON, each after its imports, as a FileDescriptorSet.

    Only their unary methods: a stream has no end at which its JSON could be looked at.
    """
    found = FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        copy = found.file.add()
        file.CopyToProto(copy)
        for service in copy.service:
            unary = [m for m in service.method if not (m.client_streaming or m.server_streaming)]
            del service.method[:]
            service.method.extend(unary)

    for file in dict.fromkeys(service.file for service in _services()):
        add(file)
    return found.SerializeToString(deterministic=True)


def _services() -> list[ServiceDescriptor]:
    """Those that speak JSON: all but reflection, which streams."""
    names = dict.fromkeys(method.path.split("/")[1] for method in METHODS)
    health: ServiceDescriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]
    return [
        health if name == HEALTH else _POOL.FindServiceByName(name)
        for name in names
        if name not in REFLECTION
    ]


def _answers() -> dict[str, Descriptor]:
    """The types of the instances' answers by path; the gateway's own need no second look."""
    return {
        f"/{service.full_name}/{method.name}": method.output_type
        for service in _services()
        if service.full_name != HEALTH
        for method in service.methods
    }


def _files() -> list[str]:
    found = FileDescriptorSet.FromString(descriptor_set())
    return [file.name for file in found.file if file.name != health_pb2.DESCRIPTOR.name]


def _filter(name: str, type_name: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": _HTTP + type_name, **fields}}
