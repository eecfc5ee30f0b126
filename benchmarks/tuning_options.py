"""The options that benchmarks/tuning.py tries: each is a change of the gateway's configuration of Envoy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.servers import TASK
from benchmarks.tuning_envoy import Config

_TYPE = "type.googleapis.com/envoy."


def _nothing(config: Config) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Option:
    """A name for the table, a change in place, and what the calls bring with them."""

    name: str
    change: Callable[[Config], None] = _nothing
    headers: tuple[str, ...] = ()
    path: str | None = None  # that of the WPAI service when None


AS_IS = Option("the gateway as it is")


# --- the parts of a configuration ---


def managers(config: Config) -> Iterator[Config]:
    """Every connection manager."""
    for listener in config["static_resources"]["listeners"]:
        for chain in [
            *listener.get("filter_chains", []),
            *filter(None, [listener.get("default_filter_chain")]),
        ]:
            for network_filter in chain["filters"]:
                yield network_filter["typed_config"]


def pools(config: Config) -> Iterator[Config]:
    """Every cluster of instances."""
    for cluster in config["static_resources"]["clusters"]:
        if "health_checks" in cluster:
            yield cluster


def pool_http2(config: Config) -> Iterator[Config]:
    for cluster in pools(config):
        for options in cluster["typed_extension_protocol_options"].values():
            yield options["explicit_http_config"]["http2_protocol_options"]


def virtual_hosts(config: Config) -> Iterator[Config]:
    for manager in managers(config):
        yield from manager["route_config"]["virtual_hosts"]


def routes(config: Config) -> Iterator[Config]:
    """Every task's route."""
    for host in virtual_hosts(config):
        for target in host["matcher"]["matcher_tree"]["exact_match_map"]["map"].values():
            yield target["action"]["typed_config"]


def http_filter(config: Config, name: str) -> Iterator[Config]:
    for manager in managers(config):
        for entry in manager["http_filters"]:
            if entry["name"] == name:
                yield entry["typed_config"]


# --- changes ---


Parts = Callable[[Config], Iterator[Config]]


def put(parts: Parts, **values: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for part in parts(config):
            part.update(values)

    return change


def drop(parts: Parts, *names: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        found = [part.pop(name, None) for part in parts(config) for name in names]
        if not any(value is not None for value in found):
            raise RuntimeError(f"the configuration has no {' or '.join(names)}")

    return change


def router(config: Config) -> Iterator[Config]:
    return http_filter(config, "router")


def whole(config: Config) -> Iterator[Config]:
    yield config


def without_filter(name: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for manager in managers(config):
            manager["http_filters"] = [entry for entry in manager["http_filters"] if entry["name"] != name]

    return change


def without_calls_log(config: Config) -> None:
    for manager in managers(config):
        manager["access_log"] = [entry for entry in manager["access_log"] if entry["name"] != "calls"]


def json_log(config: Config) -> None:
    fields = {
        "time": "%START_TIME%", "task": "%REQ(x-dl-task)%", "method": "%REQ(:PATH)%", "instance": "%UPSTREAM_HOST%",
        "status": "%GRPC_STATUS(CAMEL_STRING)%", "flags": "%RESPONSE_FLAGS%", "duration_ms": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%", "bytes_out": "%BYTES_SENT%", "caller": "%DOWNSTREAM_REMOTE_ADDRESS%",
    }  # fmt: skip
    for manager in managers(config):
        manager.setdefault("access_log", []).append(
            {
                "name": "file",
                "typed_config": {
                    "@type": _TYPE + "extensions.access_loggers.file.v3.FileAccessLog",
                    "path": "/dev/null",
                    "log_format": {"json_format": fields},
                },
            }
        )


def header_routes(config: Config) -> None:
    """A list of routes that match the header, in place of the tree."""
    for host in virtual_hosts(config):
        tree = host.pop("matcher")["matcher_tree"]["exact_match_map"]["map"]
        listed = []
        for task, target in tree.items():
            route = target["action"]["typed_config"]
            route.pop("@type")
            match = {"prefix": "/", "headers": [{"name": "x-dl-task", "string_match": {"exact": task}}]}
            listed.append(route | {"match": match})
        host["routes"] = listed


def connection_window(parts: Parts, stream: int, connection: int) -> Callable[[Config], None]:
    return put(parts, initial_stream_window_size=stream, initial_connection_window_size=connection)


def downstream_http2(config: Config) -> Iterator[Config]:
    for manager in managers(config):
        yield manager["http2_protocol_options"]


def lb(policy: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for cluster in pools(config):
            cluster.pop("load_balancing_policy", None)
            cluster["lb_policy"] = policy

    return change


def instance_header(value: str | None) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for route in routes(config):
            for header in route.get("response_headers_to_add", []):
                header["header"]["value"] = value
            if value is None:
                route.pop("response_headers_to_add", None)

    return change


def no_timeouts(config: Config) -> None:
    for route in routes(config):
        if "route" in route:
            route["route"].pop("max_grpc_timeout", None)
            route["route"]["timeout"] = "0s"


def io_uring(config: Config) -> None:
    config["bootstrap_extensions"] = [
        {
            "name": "envoy.extensions.network.socket_interface.default_socket_interface",
            "typed_config": {
                "@type": _TYPE + "extensions.network.socket_interface.v3.DefaultSocketInterface",
                "io_uring_options": {"io_uring_size": 1000},
            },
        }
    ]
    config["default_socket_interface"] = "envoy.extensions.network.socket_interface.default_socket_interface"


def plain_header_route(config: Config) -> None:
    without_filter("task")(config)


TASK_HEADER = (f"x-dl-task: {TASK}",)
BACKEND_PATH = "/tensorflow.serving.PredictionService/Predict"

OPTIONS: tuple[Option, ...] = (
    # What the calls bring.
    Option("callers send x-dl-task", headers=TASK_HEADER),
    Option("callers use the backend's path", path=BACKEND_PATH),
    # What is done for each call.
    Option(
        "no routing filter (callers send x-dl-task and the path)",
        plain_header_route,
        TASK_HEADER,
        BACKEND_PATH,
    ),
    Option("no counting of calls", without_calls_log),
    Option("access log as JSON, all calls", json_log),
    Option("request ids", put(managers, generate_request_id=True)),
    Option("no x-dl-instance", instance_header(None)),
    Option("x-dl-instance a constant", instance_header("constant")),
    Option("Envoy's own headers", put(router, suppress_envoy_headers=False)),
    Option("routes by a list, not a tree", header_routes),
    Option("no retries", drop(virtual_hosts, "retry_policy")),
    Option("no deadline", no_timeouts),
    Option("no idle timeout of streams", put(managers, stream_idle_timeout="0s")),
    Option("no texts for own replies", drop(managers, "local_reply_config")),
    # Balancing.
    Option("round robin", lb("ROUND_ROBIN")),
    Option("random", lb("RANDOM")),
    Option("least request", lb("LEAST_REQUEST")),
    Option("no load reports", drop(whole, "cluster_manager")),
    Option("no outlier detection", drop(pools, "outlier_detection")),
    Option("no circuit breakers of ours", drop(pools, "circuit_breakers")),
    Option("no health checks", drop(pools, "health_checks")),
    # Statistics.
    Option("no dynamic statistics", put(router, dynamic_stats=False)),
    Option("no statistics at all", put(whole, stats_config={"stats_matcher": {"reject_all": True}})),
    # Connections.
    Option("upstream windows 64 KiB", connection_window(pool_http2, 65_535, 65_535)),
    Option("upstream windows 16 MiB, 64 MiB", connection_window(pool_http2, 16 << 20, 64 << 20)),
    Option("downstream windows 64 KiB", connection_window(downstream_http2, 65_535, 1 << 20)),
    Option("four calls on a connection to an instance", put(pool_http2, max_concurrent_streams=4)),
    Option("one call on a connection to an instance", put(pool_http2, max_concurrent_streams=1)),
    Option("no keepalive upstream", drop(pool_http2, "connection_keepalive")),
    Option("no keepalive downstream", drop(downstream_http2, "connection_keepalive")),
    Option("no compression of headers downstream", put(downstream_http2, hpack_table_size=0)),
    Option("no compression of headers upstream", put(pool_http2, hpack_table_size=0)),
    Option("the other HTTP/2 codec downstream", put(downstream_http2, use_oghttp2_codec=True)),
    Option("the other HTTP/2 codec upstream", put(pool_http2, use_oghttp2_codec=True)),
    Option("no turns among connections", drop(whole, "layered_runtime")),
    Option("no overload manager", drop(whole, "overload_manager")),
    Option("io_uring", io_uring),
)
