"""What the gateway knows about itself, as one document, on which the admin pages draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.balancing.endpoint import Endpoint
from services.gateway.table import Table

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a task as the data plane sees it. Counts are since Envoy started."""

    address: str
    weight: int
    health: str  # "healthy", or what is wrong
    in_flight: int
    requests: int
    errors: int


def host_states(clusters: Json) -> dict[str, dict[str, Json]]:
    """Envoy's `/clusters?format=json`, as cluster -> address -> {health, stats}."""
    return {
        cluster["name"]: {_address(host["address"]): host for host in cluster.get("host_statuses", [])}
        for cluster in clusters.get("cluster_statuses", [])
    }


def instances(pool: Mapping[Endpoint, int], hosts: Mapping[str, Json]) -> list[Instance]:
    """The instances of one pool with their weights, in the order of the node file."""
    found = []
    for endpoint, weight in pool.items():
        host = hosts.get(str(endpoint))
        stats = {s["name"]: int(s.get("value", 0)) for s in host.get("stats", [])} if host else {}
        found.append(
            Instance(
                str(endpoint),
                weight,
                _health(host),
                stats.get("rq_active", 0),
                stats.get("rq_total", 0),
                stats.get("rq_error", 0),
            )
        )
    return found


def _health(host: Json | None) -> str:
    if host is None:
        return "not yet in Envoy"
    state = host.get("health_status", {})
    if state.get("failed_active_health_check"):
        return "does not accept connections"
    if state.get("failed_outlier_check"):
        return "ejected: its calls failed"
    return "healthy"


def _address(address: Json) -> str:
    socket = address.get("socket_address")
    return str(Endpoint(socket["address"], int(socket["port_value"]))) if socket else ""


def tasks(
    table: Table, pools: Mapping[str, Mapping[Endpoint, int]], hosts: Mapping[str, Mapping[str, Json]]
) -> Json:
    """Every task by id, as `/status.json` shows it."""
    return {
        str(task.task_id): {
            "timeout_ms": task.timeout_ms,
            "line": task.line,
            "configured": [str(endpoint) for endpoint in table.pools[task.pool].members],
            "instances": [
                {
                    "address": i.address,
                    "weight": i.weight,
                    "health": i.health,
                    "in_flight": i.in_flight,
                    "requests": i.requests,
                    "errors": i.errors,
                }
                for i in instances(pools.get(task.pool, {}), hosts.get(task.pool, {}))
            ],
        }
        for task in sorted(table.tasks.values(), key=lambda t: t.task_id)
    }
