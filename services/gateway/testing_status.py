"""A gateway's state made up for the tests of what draws it."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

from libs.balancing.endpoint import Endpoint
from services.gateway.metrics_counters import NOTHING, REASONS, FailedCall, TaskCounts
from services.gateway.status import Certificate, Host, InstanceRates, Overview, View, document
from services.gateway.status_history import window
from services.gateway.table import Pool, Share, Table, Task

NOW = 1_800_000_000.0
A, B, C = (Endpoint(f"10.0.0.{n}", 8500) for n in (1, 2, 3))

OVERVIEW = Overview(
    listen="0.0.0.0:8080",
    state="serving",
    ready=True,
    started_at=NOW - 3700,
    sources=("nodes.txt",),
    config_version=3,
    loaded_at=NOW - 60,
    accepted=True,
    rejected=0,
    envoy_pid=77,
)


def task_counts(ok: int, failed: int = 0, *, us: int = 1000, reason: str = "timeout") -> TaskCounts:
    """So many calls, each of which took about `us`."""
    words = array("Q", NOTHING.words)
    words[0], words[1], words[2], words[3] = ok + failed, (ok + failed) * us, 100 * ok, 50 * ok
    words[5 + REASONS.index(reason)] = failed
    words[16], words[16 + 4] = ok, failed
    words[33 + 10] = ok + failed  # up to a millisecond
    return TaskCounts(words)


def view(counts: dict[str, TaskCounts] | None = None, **changes: Any) -> View:
    """Task 69 on A and B with a canary on C, and task 70 on C. All is well and nothing was called."""
    table = Table(
        {
            69: Task(69, 100, "task-69", canary=Share("next", 5.0)),
            70: Task(70, 200, "task-70"),
        },
        {
            "task-69": Pool("task-69", {A: 100, B: 100}),
            "next": Pool("next", {C: 100}),
            "task-70": Pool("task-70", {C: 100}),
        },
    )
    counts = counts or {}
    groups = {name: [pool.members] for name, pool in table.pools.items()}
    well = Host("healthy", 1, 10, 0)
    given = View(
        now=NOW,
        overview=OVERVIEW,
        table=table,
        groups=groups,
        weights={name: dict(pool.members) for name, pool in table.pools.items()},
        hosts={name: {str(e): well for e in pool.members} for name, pool in table.pools.items()},
        counts=counts,
        windows={name: (window(c, 10.0), window(c, 60.0)) for name, c in counts.items()},
        total=(window(sum_of(counts), 10.0), window(sum_of(counts), 60.0)),
        instance_rates={("task-69", A): InstanceRates(3.0, 0.0, 0.002), ("task-69", B): InstanceRates(1.0)},
        envoy={"connections": 5, "in_flight": 2},
    )
    return replace(given, **changes)


def sum_of(counts: dict[str, TaskCounts]) -> TaskCounts:
    total = NOTHING
    for one in counts.values():
        total = total.plus(one)
    return total


FAILED = FailedCall(
    NOW - 2,
    0.1,
    4,
    "timeout",
    "69",
    "task-69",
    "10.0.0.1:8500",
    "10.9.9.9:1234",
    "response_timeout",
    "too slow",
)
EXPIRING = Certificate("/etc/tls.pem", NOW + 3 * 86400)

__all__ = ["A", "B", "C", "EXPIRING", "FAILED", "NOW", "OVERVIEW", "document", "task_counts", "view"]
