"""Prometheus metrics of one server, cheap on the request path.

prometheus-client's own objects take a lock per counter and walk a histogram's buckets in Python. Calls are
counted on one thread, so plain integers suffice: `MethodStats.observe` is a bisection and a few additions.
The exposition format is built by prometheus-client when `/metrics` is read, from a collector over these
integers.

Names and labels of the call metrics are those of the gRPC ecosystem's interceptors
(grpc_server_handled_total, ...), so that existing dashboards work. The rest is named `serving_*`. Add your
own metrics to `Metrics.registry`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from libs.serving.call import HttpRequest, HttpResponse
from libs.serving.status import Code

# Seconds. Online models answer in 1 ms to 1 s; the steps are near a factor of two, which bounds a quantile's
# error.
LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# Rows or items of a batch.
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


_SERVER_FAULTS = (Code.UNKNOWN, Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS)


class Histogram:
    """Plain-integer histogram; one writer thread."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add_to(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        """Adds the present state to a family, with the cumulative buckets of the exposition format."""
        buckets = []
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(running)))
        family.add_metric(labels, buckets, self.total)


class MethodStats:
    """Calls of one method: by code, and how long they took."""

    __slots__ = ("codes", "method", "seconds", "service")

    def __init__(self, path: str) -> None:
        self.service, _, self.method = path.strip("/").rpartition("/")
        self.codes = [0] * len(Code)
        self.seconds = Histogram(LATENCY_BUCKETS)

    def observe(self, code: int, seconds: float) -> None:
        """Counts one finished call by its gRPC code."""
        self.codes[code] += 1
        histogram = self.seconds
        histogram.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        histogram.total += seconds


class BatchStats:
    """What a `Batcher` reports (it is a `BatchObserver`)."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.items = Histogram(SIZE_BUCKETS)
        self.rows = Histogram(SIZE_BUCKETS)
        self.waited = Histogram(LATENCY_BUCKETS)
        self.run_seconds = Histogram(LATENCY_BUCKETS)
        self.drops: dict[str, int] = {}
        self.queued_rows: Callable[[], float] = float

    def ran(self, items: int, rows: int, waited_s: float, run_s: float) -> None:
        """See `BatchObserver`."""
        self.items.observe(items)
        self.rows.observe(rows)
        self.waited.observe(waited_s)
        self.run_seconds.observe(run_s)

    def dropped(self, reason: str, items: int) -> None:
        """See `BatchObserver`."""
        self.drops[reason] = self.drops.get(reason, 0) + items


class StageStats:
    """How long the stages of a model's requests take. Any thread may observe."""

    def __init__(self, model: str, stages: Iterable[str]) -> None:
        self.model = model
        self.seconds = {stage: Histogram(LATENCY_BUCKETS) for stage in stages}
        self._lock = threading.Lock()

    def observe(self, stage: str, seconds: float) -> None:
        """Counts one run of a stage."""
        with self._lock:
            self.seconds[stage].observe(seconds)


class Metrics:
    """All metrics of one server in a registry of its own.

    Args:
        labels: constant facts, shown as `serving_info`, such as the model's name and version.
        process: whether to add the process's CPU, memory and descriptors, and the Python version.
    """

    def __init__(self, labels: dict[str, str] | None = None, *, process: bool = True) -> None:
        self.registry = CollectorRegistry()
        self.in_flight: Callable[[], float] = float
        self._info = labels or {}
        self._methods: dict[str, MethodStats] = {}
        self._batches: dict[str, BatchStats] = {}
        self._stages: dict[str, StageStats] = {}
        if process:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
        self.registry.register(self)

    def method(self, path: str) -> MethodStats:
        """The stats of a method path such as `/seldon.protos.Model/Predict`; the same object for the same
        path."""
        stats = self._methods.get(path)
        if stats is None:
            stats = self._methods[path] = MethodStats(path)
        return stats

    def batcher(self, model: str, queued_rows: Callable[[], float] | None = None) -> BatchStats:
        """An observer to give to a `Batcher`; the same object for the same name, so that a model's counts go on with
        its next version. Set its `queued_rows` once the batcher exists, if not given here."""
        stats = self._batches.get(model)
        if stats is None:
            stats = self._batches[model] = BatchStats(model)
        if queued_rows is not None:
            stats.queued_rows = queued_rows
        return stats

    def stages(self, model: str, stages: Iterable[str]) -> StageStats:
        """Histograms of a model's stages; the same object for the same name."""
        stats = self._stages.get(model)
        if stats is None:
            stats = self._stages[model] = StageStats(model, stages)
        return stats

    @property
    def calls(self) -> int:
        """Calls that have ended, of all methods but health's."""
        return sum(
            sum(stats.codes) for stats in self._methods.values() if not stats.service.startswith("grpc.")
        )

    @property
    def failed_calls(self) -> int:
        """Calls that have failed by the server's fault or for want of room."""
        served = [stats for stats in self._methods.values() if not stats.service.startswith("grpc.")]
        return sum(stats.codes[code] for stats in served for code in _SERVER_FAULTS)

    @property
    def busy_seconds(self) -> float:
        """Seconds that batches have run, of all batchers that are there now."""
        return sum(stats.run_seconds.total for stats in self._batches.values())

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """The `/metrics` handler; answers in the text or the OpenMetrics format, as asked."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return HttpResponse(200, encode(self.registry), content_type)

    def collect(self) -> Iterable[Metric]:
        """Families of the present moment; called by the registry."""
        if self._info:
            yield InfoMetricFamily("serving", "What this server serves.", value=self._info)
        yield GaugeMetricFamily("serving_calls_in_flight", "Calls being served now.", value=self.in_flight())
        yield from self._call_families()
        if self._batches:
            yield from self._batch_families()
        if self._stages:
            yield self._stage_family()

    def _call_families(self) -> Iterable[Metric]:
        labels = ["grpc_type", "grpc_service", "grpc_method"]
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls completed, by code.", labels=[*labels, "grpc_code"]
        )
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "From the call's headers to its answer.", labels=labels
        )
        for stats in self._methods.values():
            values = ["unary", stats.service, stats.method]
            for code, count in enumerate(stats.codes):
                if count or code == 0:
                    handled.add_metric([*values, _CODE_NAMES[code]], count)
            stats.seconds.add_to(seconds, values)
        yield handled
        yield seconds

    def _stage_family(self) -> Metric:
        family = HistogramMetricFamily(
            "serving_stage_seconds",
            "Time of a stage's runs; one run may serve a batch.",
            labels=["model", "stage"],
        )
        for stats in self._stages.values():
            for stage, seconds in stats.seconds.items():
                seconds.add_to(family, [stats.model, stage])
        return family

    def _batch_families(self) -> Iterable[Metric]:
        items = HistogramMetricFamily("serving_batch_items", "Requests in a batch.", labels=["model"])
        rows = HistogramMetricFamily("serving_batch_rows", "Rows in a batch.", labels=["model"])
        waited = HistogramMetricFamily(
            "serving_queue_seconds", "Time the oldest request of a batch was queued.", labels=["model"]
        )
        run = HistogramMetricFamily("serving_run_seconds", "Time of a batch in the model.", labels=["model"])
        drops = CounterMetricFamily(
            "serving_queue_dropped", "Requests that left the queue without a run.", labels=["model", "reason"]
        )
        queued = GaugeMetricFamily("serving_queue_rows", "Rows waiting now.", labels=["model"])
        for stats in self._batches.values():
            values = [stats.model]
            stats.items.add_to(items, values)
            stats.rows.add_to(rows, values)
            stats.waited.add_to(waited, values)
            stats.run_seconds.add_to(run, values)
            for reason, count in stats.drops.items():
                drops.add_metric([*values, reason], count)
            queued.add_metric(values, stats.queued_rows())
        yield from (items, rows, waited, run, drops, queued)


# Camel case without separators, as grpc-go prints codes and its Prometheus interceptors label them.
_CODE_NAMES = [
    "OK" if code is Code.OK else "".join(word.capitalize() for word in code.name.split("_")) for code in Code
]
