from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from services.gateway.metrics_counters import UNKNOWN, InstanceCounts
from services.gateway.metrics_page import Numbers, render
from services.gateway.metrics_text import Exposition, labels
from services.gateway.testing_status import EXPIRING, OVERVIEW, A, task_counts, view


def numbers() -> Numbers:
    given = view()
    return Numbers(
        overview=replace(OVERVIEW, certificates=(EXPIRING,)),
        table=given.table,
        tasks={"69": task_counts(90, 10), UNKNOWN: task_counts(0, 3, reason="request")},
        instances={("task-69", A): InstanceCounts(100, 250_000, 1)},
        attempts={("task-69", A): (99, 1)},
        in_flight={("task-69", A): 4},
        weights=given.weights,
        hosts=given.hosts,
        ejections={"task-69": 2},
        envoy={"connections": 5, "in_flight": 2},
    )


def test_the_page_is_what_prometheus_reads() -> None:
    families = {f.name: f for f in text_string_to_metric_families(render(numbers()).decode())}
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert found["dl_gateway_requests_total", "69", "OK"] == 90
    assert found["dl_gateway_requests_total", "69", "DEADLINE_EXCEEDED"] == 10
    assert found["dl_gateway_requests_total", "69", "UNAVAILABLE"] == 0
    assert found["dl_gateway_failures_total", "request", "unknown"] == 3
    assert found["dl_gateway_request_duration_seconds_bucket", "0.0005", "69"] == 0
    assert found["dl_gateway_request_duration_seconds_bucket", "0.001", "69"] == 100
    assert found["dl_gateway_request_duration_seconds_bucket", "+Inf", "69"] == 100
    assert found["dl_gateway_request_duration_seconds_count", "69"] == 100
    assert found["dl_gateway_instance_latency_seconds_sum", "10.0.0.1:8500", "task-69"] == 0.25
    assert found["dl_gateway_instance_calls_total", "10.0.0.1:8500", "failed", "task-69"] == 1
    assert found["dl_gateway_task_pool", "69", "canary", "next"] == 1
    assert found["dl_gateway_certificate_expiry_timestamp_seconds", "/etc/tls.pem"] == EXPIRING.expires_at
    assert found["dl_gateway_envoy_up",] == found["dl_gateway_ready",] == 1
    assert all(family.documentation for family in families.values())
    assert {f.type for n, f in families.items() if n.endswith("_seconds") and "duration" in n} == {
        "histogram"
    }


def test_every_metric_is_in_the_manual_and_every_one_of_the_manual_exists() -> None:
    manual = Path(__file__).with_name("METRICS.md").read_text()
    written = set(re.findall(r"`(dl_gateway_\w+)`", manual))
    rendered = {
        line.split()[2] for line in render(numbers()).decode().splitlines() if line.startswith("# TYPE")
    }
    optional = {
        "dl_gateway_connections_total",
        "dl_gateway_connections_refused_total",
        "dl_gateway_envoy_memory_bytes",
    }
    assert rendered | optional == written


def test_label_values_are_escaped() -> None:
    page = Exposition().family("n", "gauge", "text").add(1, labels(a='say "hi"\n\\')).render().decode()
    assert page.splitlines()[-1] == r'n{a="say \"hi\"\n\\"} 1'
    assert Exposition().single("n", "gauge", "text", 0.25).render().decode().endswith("n 0.25\n")
