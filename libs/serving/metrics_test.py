"""Metrics: what `/metrics` says after what was counted."""

from __future__ import annotations

from prometheus_client import Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from libs.serving.call import HttpRequest
from libs.serving.metrics import LATENCY_BUCKETS, Histogram, Metrics
from libs.serving.status import Code

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def _scrape(metrics: Metrics) -> Samples:
    response = await metrics.handle(HttpRequest("GET", "/metrics"))
    assert response.status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
    }


def _key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


async def test_calls_are_counted_by_method_and_code() -> None:
    metrics = Metrics(process=False)
    stats = metrics.method("/pkg.Service/Predict")
    assert metrics.method("/pkg.Service/Predict") is stats
    stats.observe(Code.OK, 0.0015)
    stats.observe(Code.OK, 0.3)
    stats.observe(Code.DEADLINE_EXCEEDED, 99)
    metrics.in_flight = lambda: 7
    samples = await _scrape(metrics)
    method = {"grpc_type": "unary", "grpc_service": "pkg.Service", "grpc_method": "Predict"}
    assert samples[_key("grpc_server_handled_total", **method, grpc_code="OK")] == 2
    assert samples[_key("grpc_server_handled_total", **method, grpc_code="DeadlineExceeded")] == 1
    seconds = "grpc_server_handling_seconds"
    assert samples[_key(f"{seconds}_bucket", **method, le="0.001")] == 0
    assert samples[_key(f"{seconds}_bucket", **method, le="0.002")] == 1
    assert samples[_key(f"{seconds}_bucket", **method, le="30.0")] == 2
    assert samples[_key(f"{seconds}_bucket", **method, le="+Inf")] == 3
    assert samples[_key(f"{seconds}_count", **method)] == 3
    assert abs(samples[_key(f"{seconds}_sum", **method)] - 99.3015) < 1e-9
    assert samples[_key("serving_calls_in_flight")] == 7


async def test_batches() -> None:
    metrics = Metrics({"model": "digits"}, process=False)
    stats = metrics.batcher("digits", lambda: 5.0)
    stats.ran(3, 12, 0.001, 0.004)
    stats.dropped("expired", 2)
    stats.dropped("expired", 1)
    samples = await _scrape(metrics)
    assert samples[_key("serving_batch_items_sum", model="digits")] == 3
    assert samples[_key("serving_batch_rows_bucket", model="digits", le="16.0")] == 1
    assert samples[_key("serving_batch_rows_bucket", model="digits", le="8.0")] == 0
    assert samples[_key("serving_run_seconds_count", model="digits")] == 1
    assert samples[_key("serving_queue_dropped_total", model="digits", reason="expired")] == 3
    assert samples[_key("serving_queue_rows", model="digits")] == 5
    assert samples[_key("serving_info", model="digits")] == 1


async def test_an_application_adds_its_own() -> None:
    metrics = Metrics()
    Counter("mine", "Something else.", registry=metrics.registry).inc(3)
    samples = await _scrape(metrics)
    assert samples[_key("mine_total")] == 3
    assert samples[_key("process_resident_memory_bytes")] > 0


async def test_openmetrics_is_spoken_on_demand() -> None:
    request = HttpRequest(
        "GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
    )
    response = await Metrics(process=False).handle(request)
    assert response.content_type.startswith("application/openmetrics-text")
    assert response.body.endswith(b"# EOF\n")


def test_a_value_on_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram(LATENCY_BUCKETS)
    histogram.observe(LATENCY_BUCKETS[3])
    assert histogram.counts[3] == 1


def test_stages_are_histograms_of_their_own_and_go_on_with_the_next_version() -> None:
    metrics = Metrics(process=False)
    metrics.stages("m", ("model", "postprocess")).observe("model", 0.003)
    metrics.stages("m", ("model", "postprocess")).observe("model", 0.3)
    text = generate_latest(metrics.registry).decode()
    assert 'serving_stage_seconds_bucket{le="0.005",model="m",stage="model"} 1.0' in text
    assert 'serving_stage_seconds_count{model="m",stage="model"} 2.0' in text
    assert 'serving_stage_seconds_count{model="m",stage="postprocess"} 0.0' in text


def test_a_batcher_of_a_known_name_goes_on_counting() -> None:
    metrics = Metrics(process=False)
    metrics.batcher("m").ran(1, 2, 0.0, 0.5)
    metrics.batcher("m", lambda: 7.0).ran(1, 2, 0.0, 0.25)
    text = generate_latest(metrics.registry).decode()
    assert 'serving_batch_items_count{model="m"} 2.0' in text and 'serving_queue_rows{model="m"} 7.0' in text
    assert metrics.busy_seconds == 0.75


def test_calls_and_the_servers_own_failures_are_counted_without_health() -> None:
    metrics = Metrics(process=False)
    for code in (Code.OK, Code.INTERNAL, Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED):
        metrics.method("/a.B/C").observe(code, 0.001)
    metrics.method("/grpc.health.v1.Health/Check").observe(Code.UNAVAILABLE, 0.001)
    assert (metrics.calls, metrics.failed_calls) == (4, 2)
