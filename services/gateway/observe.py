"""What the listener tells about its calls: the access log and OpenTelemetry spans. Pure; off unless configured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from services.gateway.access import CLIENT_HEADER
from services.gateway.methods import TASK_HEADER
from services.gateway.table import AccessLog, Edge, LogWhen, Tracing
from services.gateway.xds_messages import parse

Json = dict[str, Any]

COLLECTOR = "otel-collector"  # the cluster that spans go to
REQUEST_ID = "x-request-id"

_TYPE = "type.googleapis.com/envoy."

# One line of the access log. No header of the caller is here but the ones that say what was called: nothing secret, and
# of the request's and the answer's messages only their sizes. What a call did not come to is null.
_LINE: dict[str, str] = {
    "time": "%START_TIME%",
    "task": f"%REQ({TASK_HEADER})%",
    "method": "%REQ(:PATH)%",  # as the instance knows it
    "instance": "%UPSTREAM_HOST%",
    "status": "%GRPC_STATUS(CAMEL_STRING)%",
    "status_code": "%GRPC_STATUS_NUMBER%",
    "flags": "%RESPONSE_FLAGS%",  # Envoy's: UT timed out, UF could not connect, ...
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "instance_ms": "%COMMON_DURATION(US_TX_END:US_RX_END:ms)%",  # from the whole request sent to the whole answer read
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "request_id": f"%REQ({REQUEST_ID})%",
    "trace_id": "%TRACE_ID%",
    "caller": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "caller_certificate": "%DOWNSTREAM_PEER_SUBJECT%",
    "client": f"%REQ({CLIENT_HEADER})%",
    "protocol": "%PROTOCOL%",
}


def connection_manager(edge: Edge) -> Json:
    """The fields of the connection manager that turn on what the edge asks for; nothing of this costs otherwise."""
    found: Json = {}
    if edge.access_log.when != LogWhen.OFF:
        found["access_log"] = [_access_log(edge.access_log)]
    if edge.tracing is not None:
        found["tracing"] = _tracing(edge.tracing)
    if found:
        # The caller's own id where it sends one, so that its log and ours can be laid side by side.
        found |= {
            "generate_request_id": True,
            "preserve_external_request_id": True,
            "always_set_request_id_in_response": True,
            "request_id_extension": {
                "typed_config": {
                    "@type": _TYPE + "extensions.request_id.uuid.v3.UuidRequestIdConfig",
                    # A caller's id is left as it is, and one that is always the same does not decide which calls
                    # are traced.
                    "pack_trace_reason": False,
                    "use_request_id_for_trace_sampling": False,
                }
            },
        }
    return found


def _access_log(log: AccessLog) -> Json:
    line: Json = {"log_format": {"json_format": _LINE}}
    if log.path == "-":
        name, line = "stdout", {"@type": _TYPE + "extensions.access_loggers.stream.v3.StdoutAccessLog"} | line
    else:
        name = "file"
        line = {"@type": _TYPE + "extensions.access_loggers.file.v3.FileAccessLog", "path": log.path} | line
    failed: Json = {"grpc_status_filter": {"exclude": True, "statuses": ["OK"]}}
    entry: Json = {"name": name, "typed_config": line}
    if log.when == LogWhen.ERRORS:
        return entry | {"filter": failed}
    if log.sample_percent >= 100.0:
        return entry
    sampled = {
        "runtime_filter": {
            "runtime_key": "access_log.sample",
            "percent_sampled": {"numerator": round(log.sample_percent * 10_000), "denominator": "MILLION"},
            "use_independent_randomness": True,
        }
    }
    return entry | {"filter": {"or_filter": {"filters": [failed, sampled]}}}


def _tracing(tracing: Tracing) -> Json:
    return {
        "provider": {
            "name": "opentelemetry",
            "typed_config": {
                "@type": _TYPE + "config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": COLLECTOR}, "timeout": "1s"},
                "service_name": tracing.service_name,
                # As the caller decided, where its call is part of a trace; else our share of the calls.
                "sampler": _sampler(
                    "parent_based",
                    "ParentBasedSamplerConfig",
                    wrapped_sampler=_sampler(
                        "trace_id_ratio_based",
                        "TraceIdRatioBasedSamplerConfig",
                        sampling_percentage={
                            "numerator": round(tracing.sample_percent * 10_000),
                            "denominator": "MILLION",
                        },
                    ),
                ),
            },
        },
        "random_sampling": {"value": 100.0},  # the sampler above draws
        "client_sampling": {"value": 0.0},
        "custom_tags": [
            {"tag": "dl.task", "request_header": {"name": TASK_HEADER}},
            {"tag": "dl.client", "request_header": {"name": CLIENT_HEADER}},
        ],
    }


def _sampler(name: str, kind: str, **given: Json) -> Json:
    return {
        "name": f"envoy.tracers.opentelemetry.samplers.{name}",
        "typed_config": {"@type": f"{_TYPE}extensions.tracers.opentelemetry.samplers.v3.{kind}", **given},
    }


def collector_cluster(edge: Edge, addresses: Iterable[str]) -> Any | None:
    """The cluster that spans go to, as Envoy's message; None without tracing. `addresses`: where the collector's name
    leads, or the address itself."""
    if edge.tracing is None:
        return None
    port = edge.tracing.collector.port
    members = [
        {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}
        for address in addresses
    ]
    return parse(
        "envoy.config.cluster.v3.Cluster",
        {
            "name": COLLECTOR,
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": _TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            },
            "load_assignment": {"cluster_name": COLLECTOR, "endpoints": [{"lb_endpoints": members}]},
        },
    )
