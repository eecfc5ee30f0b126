from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from libs.serving.metrics import Histogram
from services.tf_serving.monitoring.page import Family, exponential, write


def test_counters_in_the_order_of_their_names() -> None:
    families = [
        Family(":b:count", ("model_name", "status"), {("a", "OK"): 2, ('q"\\\n', "NOT_FOUND"): 1 << 60}),
        Family(":a:runs", (), {(): 3}),
        Family(":c:none", ("x",)),
    ]
    assert write(families).decode() == (
        "# TYPE :a:runs counter\n:a:runs{} 3\n"
        "# TYPE :b:count counter\n"
        ':b:count{model_name="a",status="OK"} 2\n'
        f':b:count{{model_name="q\\"\\\\\\n",status="NOT_FOUND"}} {1 << 60}\n'
        "# TYPE :c:none counter\n"
    )


def test_histograms_are_cumulative() -> None:
    """The example of TensorFlow Serving's prometheus_exporter_test.cc, but that a value on a bound is within it."""
    histogram = Histogram(exponential(1, 2, 10))
    for value in (2, 20, 200):
        histogram.observe(value)
    counts = [0, 1, 1, 1, 1, 2, 2, 2, 3, 3]
    lines = [f':t:h_bucket{{status="good",le="{2**power}"}} {count}' for power, count in enumerate(counts)]
    assert write([Family(":t:h", ("status",), histograms={("good",): histogram})]).decode().split("\n") == [
        "# TYPE :t:h histogram",
        *lines,
        ':t:h_bucket{status="good",le="+Inf"} 3',
        ':t:h_sum{status="good"} 222',
        ':t:h_count{status="good"} 3',
        "",
    ]


def test_bounds_have_the_text_of_tensorflow_serving() -> None:
    histogram = Histogram(exponential(10, 1.8, 33))
    histogram.observe(7680721.25)
    text = write([Family(":t:h", (), histograms={(): histogram})]).decode()
    for limit in ("10", "18", "32.4", "104.976", "188.957", "1102", "1.27482e+06", "1.47476e+09"):
        assert f'\n:t:h_bucket{{le="{limit}"}} ' in text
    assert text.count("_bucket{") == 34
    assert ":t:h_sum{} 7680721.25\n" in text


def test_prometheus_reads_it() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.5)
    families = [
        Family(":t:h", ("m",), histograms={('a"b\\c\nd',): histogram}),
        Family(":t:c", ("m", "s"), {("x", "OK"): 5}),
    ]
    found = {family.name: family for family in text_string_to_metric_families(write(families).decode())}
    assert [(s.name, s.labels, s.value) for s in found[":t:c"].samples] == [
        (":t:c_total", {"m": "x", "s": "OK"}, 5.0)  # the parser, not Prometheus, adds _total
    ]
    samples = {(s.name, s.labels.get("le")): s.value for s in found[":t:h"].samples}
    assert (
        samples[(":t:h_bucket", "2")]
        == samples[(":t:h_bucket", "+Inf")]
        == samples[(":t:h_count", None)]
        == 1
    )
    assert samples[(":t:h_sum", None)] == pytest.approx(1.5)
    assert {s.labels["m"] for s in found[":t:h"].samples} == {'a"b\\c\nd'}
