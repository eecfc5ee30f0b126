"""The page at /metrics: the gateway's metrics under stable names. METRICS.md describes each. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from libs.balancing.endpoint import Endpoint
from services.gateway.metrics_counters import BOUNDS_US, REASONS, InstanceCounts, TaskCounts
from services.gateway.metrics_text import Exposition, labels
from services.gateway.status import CODE_NAMES, ENVOY_VERSION, Host, Overview
from services.gateway.table import Table, Task

# A part of the bounds that are counted, milliseconds.
BUCKETS_MS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
_BUCKET_AT = tuple(BOUNDS_US.index(round(bound * 1000)) for bound in BUCKETS_MS)
_BUCKET_TEXT = tuple(f"{bound / 1000:g}" for bound in BUCKETS_MS)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the page is made of, at one moment."""

    overview: Overview
    table: Table
    tasks: Mapping[str, TaskCounts]  # by task id, UNKNOWN for calls of no task
    instances: Mapping[tuple[str, Endpoint], InstanceCounts]
    attempts: Mapping[tuple[str, Endpoint], tuple[int, int]]  # calls answered and failed, retried ones too
    in_flight: Mapping[tuple[str, Endpoint], int]
    weights: Mapping[str, Mapping[Endpoint, int]]
    hosts: Mapping[str, Mapping[str, Host]]  # empty when Envoy does not answer
    ejections: Mapping[str, int] = field(default_factory=dict)  # by pool
    envoy: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0


def render(numbers: Numbers) -> bytes:
    page = Exposition()
    _gateway(page, numbers)
    _tasks(page, numbers)
    _pools(page, numbers)
    _instances(page, numbers)
    return page.render()


def _gateway(page: Exposition, n: Numbers) -> None:
    o = n.overview
    page.family("dl_gateway_info", "gauge", "Always 1; what runs").add(1, labels(envoy_version=ENVOY_VERSION))
    for name, kind, text, value in (
        ("ready", "gauge", "1 while the gateway takes traffic", int(o.ready)),
        ("start_time_seconds", "gauge", "When the gateway started, since the epoch", o.started_at),
        ("config_version", "gauge", "Configurations put to work since the start", o.config_version),
        ("config_loaded_timestamp_seconds", "gauge", "When the running configuration was loaded", o.loaded_at),
        ("config_accepted", "gauge", "1 when Envoy holds the running configuration", int(o.accepted)),
        ("config_rejected_total", "counter", "Edits of the configuration that were rejected", o.rejected),
        ("config_errors", "gauge", "Errors in the configuration's files as they are now", len(o.errors)),
        ("unresolved_names", "gauge", "Host names that do not resolve", len(o.unresolved)),
        ("tasks", "gauge", "Tasks in the running configuration", len(n.table.tasks)),
        ("envoy_up", "gauge", "1 when Envoy answers", int(bool(n.envoy))),
        ("envoy_restarts_total", "counter", "Times that Envoy was started again", o.envoy_restarts),
        ("control_restarts_total", "counter", "Times that the control plane was started again", o.control_restarts),
        ("uncounted_calls_total", "counter", "Calls not counted by task: too many different tasks", n.lost),
    ):  # fmt: skip
        page.single(f"dl_gateway_{name}", kind, text, value)
    for name, kind, text, key in (
        ("connections", "gauge", "Connections of callers", "connections"),
        ("connections_total", "counter", "Connections that callers opened", "connections_total"),
        ("connections_refused_total", "counter", "Connections refused: too many", "connections_refused"),
        ("in_flight", "gauge", "Calls in flight", "in_flight"),
        ("envoy_memory_bytes", "gauge", "Memory that Envoy allocated", "memory"),
    ):
        if key in n.envoy:
            page.single(f"dl_gateway_{name}", kind, text, n.envoy[key])
    if o.certificates:
        page.family("dl_gateway_certificate_expiry_timestamp_seconds", "gauge", "When a certificate expires")
        for certificate in o.certificates:
            page.add(certificate.expires_at, labels(file=certificate.file))


def _tasks(page: Exposition, n: Numbers) -> None:
    found = sorted(n.tasks.items())
    named = [(labels(task=name or "unknown"), counts) for name, counts in found]
    page.family("dl_gateway_requests_total", "counter", "Calls that ended, by gRPC status")
    for name, counts in found:
        for code, count in enumerate(counts.codes):
            # A task's first failure must be visible as a rise from 0, so OK and UNAVAILABLE are always there.
            if count or code in (0, 14):
                page.add(count, labels(task=name or "unknown", code=CODE_NAMES[code]))
    page.family("dl_gateway_failures_total", "counter", "Calls that did not end with OK, by reason")
    for name, counts in found:
        for reason, count in zip(REASONS, counts.reasons, strict=True):
            if count:
                page.add(count, labels(task=name or "unknown", reason=reason))
    page.family("dl_gateway_request_duration_seconds", "histogram", "From a call's first byte to its end")
    for text, counts in named:
        sums = list(accumulate(counts.durations))
        page.histogram(text, _BUCKET_TEXT, [*(sums[at] for at in _BUCKET_AT), sums[-1]], counts.duration_s)
    for family, help_text, values in (
        ("received_bytes_total", "Bytes of requests", [counts.received_bytes for _, counts in named]),
        ("sent_bytes_total", "Bytes of answers", [counts.sent_bytes for _, counts in named]),
        ("retries_total", "Further attempts at calls", [counts.retries for _, counts in named]),
    ):
        page.family(f"dl_gateway_{family}", "counter", help_text)
        for (text, _), value in zip(named, values, strict=True):
            page.add(value, text)


def _pools(page: Exposition, n: Numbers) -> None:
    page.family("dl_gateway_task_pool", "gauge", "Always 1; which pools a task has")
    for task in n.table.tasks.values():
        for role, pool in _roles(task):
            page.add(1, labels(task=task.task_id, pool=pool, role=role))
    page.family(
        "dl_gateway_ejections_total", "counter", "Times that an instance was ejected for its failures"
    )
    for pool, count in n.ejections.items():
        page.add(count, labels(pool=pool))


def _roles(task: Task) -> Iterator[tuple[str, str]]:
    yield "main", task.pool
    if task.canary is not None:
        yield "canary", task.canary.pool
    if task.shadow is not None:
        yield "shadow", task.shadow.pool


def _instances(page: Exposition, n: Numbers) -> None:
    def text(key: tuple[str, Endpoint]) -> str:
        return labels(pool=key[0], instance=key[1])

    page.family("dl_gateway_instance_weight", "gauge", "Weight in use; 100 is full unless configured")
    for pool, weights in n.weights.items():
        for endpoint, weight in weights.items():
            page.add(weight, text((pool, endpoint)))
    page.family("dl_gateway_instance_healthy", "gauge", "1 when the instance gets calls")
    for pool, hosts in n.hosts.items():
        if pool in n.weights:
            for address, host in hosts.items():
                page.add(int(host.health == "healthy"), labels(pool=pool, instance=address))
    page.family("dl_gateway_instance_calls_total", "counter", "Attempts at an instance, by outcome")
    for key, (ok, failed) in n.attempts.items():
        head = text(key)[:-1]
        page.add(ok, head + ',outcome="ok"}').add(failed, head + ',outcome="failed"}')
    page.family("dl_gateway_instance_in_flight", "gauge", "Calls at an instance")
    for key, count in n.in_flight.items():
        page.add(count, text(key))
    page.family("dl_gateway_instance_latency_seconds", "summary", "From the request sent to the answer read")
    for key, counts in n.instances.items():
        page.add(counts.latency_us / 1e6, text(key), "_sum").add(counts.answered, text(key), "_count")
