"""The admin pages of one gateway."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from services.gateway import status
from services.gateway.admin import Handler, Json, Page, json_page, metrics_page, ready_page, status_page

if TYPE_CHECKING:
    from services.gateway.gateway import Gateway
    from services.gateway.load_reports import CallCounts


def pages(gateway: Gateway) -> dict[str, Handler]:
    """The pages by path."""

    async def root() -> Page:
        return status_page(await document(gateway))

    async def as_json() -> Page:
        return json_page(await document(gateway))

    async def ready() -> Page:
        return ready_page(gateway.ready, _state(gateway))

    async def metrics() -> Page:
        return metrics_page(control_metrics(gateway), await _envoy_metrics(gateway))

    return {"/": root, "/status.json": as_json, "/metrics": metrics, "/ready": ready}


def _state(gateway: Gateway) -> str:
    if gateway.draining:
        return "draining"
    return "serving" if gateway.ready else "starting"


async def document(gateway: Gateway) -> Json:
    """All that `/status.json` says."""
    hosts: dict[str, dict[str, Json]] = {}
    envoy_error = gateway.discovery.last_error
    if gateway.envoy is not None:
        try:
            hosts = status.host_states(await gateway.envoy.admin.json("/clusters?format=json"))
        except OSError as error:
            envoy_error = envoy_error or f"Envoy's admin does not answer: {error}"
    table = gateway.table
    return {
        "gateway": {
            "listen": gateway.listen_text,
            "ready": gateway.ready,
            "state": _state(gateway),
            "envoy_pid": gateway.envoy.pid if gateway.envoy else None,
            "envoy_restarts": gateway.restarts,
        },
        "config": {
            "nodes": str(gateway.options.sources.main),
            "version": gateway.reload.version,
            "loaded_at": gateway.reload.loaded_at,
            "accepted": gateway.discovery.settled,
            "rejected": gateway.reload.rejected,
            "errors": gateway.reload.errors,
            "envoy_error": envoy_error,
            "unresolved": dict(gateway.resolver.errors),
        },
        "tasks": status.tasks(
            table,
            {task.pool: gateway.weights.weights(task.pool) for task in table.tasks.values()},
            hosts,
        ),
    }


def control_metrics(gateway: Gateway) -> bytes:
    """The control plane's own metrics. Envoy's, which count the calls, follow them on the page."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(f"dl_gateway_{name}", text, registry=registry).set(value)

    gauge("ready", "1 while the gateway takes traffic", gateway.ready)
    gauge("config_version", "Node files put to work since the start", gateway.reload.version)
    gauge(
        "config_loaded_timestamp_seconds", "When the running node file was loaded", gateway.reload.loaded_at
    )
    gauge("config_rejected", "Node files rejected since the start", gateway.reload.rejected)
    gauge("config_errors", "Errors in the node file as it is now", len(gateway.reload.errors))
    gauge("config_accepted", "1 when Envoy holds the running table", gateway.discovery.settled)
    gauge("tasks", "Tasks in the running table", len(gateway.table.tasks))
    gauge("unresolved_names", "Host names that do not resolve", len(gateway.resolver.errors))
    gauge("envoy_restarts", "Times that Envoy was started again", gateway.restarts)
    weight = Gauge(
        "dl_gateway_instance_weight", "Effective weight, 100 is full", ["task", "instance"], registry=registry
    )
    for task in gateway.table.tasks.values():
        for endpoint, value in gateway.weights.weights(task.pool).items():
            weight.labels(str(task.task_id), str(endpoint)).set(value)
    registry.register(_CallCollector(gateway.calls))
    return generate_latest(registry)


class _CallCollector(Collector):
    """The instances' calls as one counter. gRPC statuses that map to HTTP 5xx, and no answer, are failures."""

    def __init__(self, calls: CallCounts) -> None:
        self._calls = calls

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "dl_gateway_instance_calls",
            "Calls by instance and outcome, a second behind and without a new task's first second",
            labels=["task", "instance", "outcome"],
        )
        for pool, endpoint, ok, failed in self._calls.items():
            task = pool.removeprefix("task-")
            family.add_metric([task, str(endpoint), "ok"], ok)
            family.add_metric([task, str(endpoint), "failed"], failed)
        yield family


async def _envoy_metrics(gateway: Gateway) -> bytes:
    if gateway.envoy is None:
        return b""
    try:
        return (await gateway.envoy.admin.call("/stats/prometheus?usedonly")).body
    except OSError:
        return b"# Envoy does not answer\n"
