from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.gateway.metrics_counters import UNKNOWN
from services.gateway.status import CODE_NAMES, Host, document, hosts
from services.gateway.testing_status import EXPIRING, FAILED, OVERVIEW, A, task_counts, view


def host_status(address: str, **health: bool) -> dict[str, Any]:
    return {
        "address": {"socket_address": {"address": address, "port_value": 8500}},
        "health_status": health,
        "stats": [
            {"name": "rq_active", "value": "2"},
            {"name": "rq_total", "value": "7"},
            {"name": "rq_error"},
        ],
    }


def test_envoys_hosts_are_read_by_pool_and_address() -> None:
    clusters = {
        "cluster_statuses": [
            {
                "name": "task-69",
                "host_statuses": [
                    host_status("10.0.0.1"),
                    host_status("fd00::1", failed_outlier_check=True),
                    host_status("10.0.0.3", failed_active_health_check=True, failed_outlier_check=True),
                ],
            },
            {"name": "empty"},
        ]
    }
    assert hosts(clusters) == {
        "task-69": {
            "10.0.0.1:8500": Host("healthy", 2, 7, 0),
            "[fd00::1]:8500": Host("ejected: its calls failed", 2, 7, 0, ejected=True),
            "10.0.0.3:8500": Host("does not answer health checks", 2, 7, 0, ejected=True),
        },
        "empty": {},
    }


def test_a_well_gateway_is_healthy_and_shows_its_pools() -> None:
    found = document(view({"69": task_counts(90), UNKNOWN: task_counts(0, 3)}))
    assert found["health"] == "healthy"
    task = found["tasks"]["69"]
    assert task["codes"] == {"OK": 90}
    assert task["last_10s"]["rate"] == 9.0
    assert [(pool["name"], pool["role"], pool.get("percent")) for pool in task["pools"]] == [
        ("task-69", "main", None),
        ("next", "canary", 5.0),
    ]
    assert [instance["share"] for instance in task["instances"]] == [0.75, 0.25]
    assert task["instances"][0]["mean_ms"] == 2.0
    assert found["no_task"]["reasons"] == {"timeout": 3}
    assert found["gateway"]["uptime_s"] == 3700.0


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ({"groups": {"task-69": [{}]}}, "no instance"),
        ({"hosts": {}}, "down"),
        ({"counts": {"69": task_counts(1, 1)}}, "failing"),
        ({"counts": {"69": task_counts(98, 2)}}, "errors"),
        ({"counts": {"69": task_counts(999, 1)}}, ""),
        ({"counts": {"69": task_counts(1, 9, reason="rate_limited")}}, ""),
        ({"hosts": {"task-69": {str(A): Host("healthy", 0, 0, 0)}}}, "degraded"),
    ],
)
def test_the_worst_trouble_of_a_task_is_named(changes: dict[str, Any], trouble: str) -> None:
    found = document(view(changes.pop("counts", None), **changes))
    assert found["tasks"]["69"]["trouble"] == trouble
    assert found["health"] == ("degraded" if trouble or "hosts" in changes else "healthy")


def test_problems_of_the_gateway_make_it_degraded() -> None:
    overview = replace(
        OVERVIEW,
        errors=("nodes.txt:3: no",),
        envoy_error="rejected",
        unresolved={"a.svc": "unknown"},
        certificates=(EXPIRING,),
    )
    found = document(view(overview=overview))
    assert found["health"] == "degraded"
    assert found["problems"] == [
        "nodes.txt:3: no",
        "rejected",
        "a.svc: unknown",
        "/etc/tls.pem: the certificate expires in 3.0 days",
    ]


def test_failed_calls_are_in_words() -> None:
    (call,) = document(view(failures=[FAILED]))["failed_calls"]
    assert (call["status"], call["reason"], call["duration_ms"]) == ("DEADLINE_EXCEEDED", "timeout", 100.0)
    assert len(CODE_NAMES) == 17
