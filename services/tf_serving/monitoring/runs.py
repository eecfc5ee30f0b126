"""Batches and loads, for TensorFlow Serving's metrics of them. Any thread may tell of either.

Names, labels and buckets are those of tensorflow_serving/batching/{batching_session.cc,batching_util.h},
tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc and TensorFlow's cc/saved_model/loader.cc.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from libs.serving.metrics import Histogram
from services.tf_serving.monitoring.page import Family, exponential
from services.tf_serving.monitoring.requests import LATENCY_US

QUEUING_US = exponential(100, 1.2, 52)
ROWS = exponential(1, 2, 14)


class BatchStats:
    """Rows and waits of batches.

    Args:
        thread_pool: the batching parameters' thread_pool_name.
    """

    def __init__(self, thread_pool: str) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._queuing = Histogram(QUEUING_US)
        self._given = Histogram(ROWS)
        self._processed = Histogram(ROWS)
        self._padding: dict[tuple[str, ...], Histogram] = {}
        self._thread_pool = thread_pool

    def given(self, rows: int, inputs: int) -> None:
        """A call came with so many rows in each of its inputs."""
        with self._lock:
            for _ in range(inputs):
                self._given.observe(rows)

    def ran(self, rows: int, total: int, waited_s: Sequence[float]) -> None:
        """Rows of as many calls as waited share a run; it is filled up to `total` rows."""
        with self._lock:
            self._runs += 1
            for seconds in waited_s:
                self._queuing.observe(seconds * 1e6)
            self._processed.observe(total)
            padding = self._padding.get((str(total),))
            if padding is None:
                padding = self._padding[(str(total),)] = Histogram(ROWS)
            padding.observe(total - rows)

    def families(self) -> Iterable[Family]:
        """What there is now."""
        session = ":tensorflow:serving:batching_session:"
        none: list[tuple[str, ...]] = [()] if self._runs else []
        pool: list[tuple[str, ...]] = [(self._thread_pool,)] if self._runs else []
        yield Family(f"{session}wrapped_run_count", (), dict.fromkeys(none, self._runs))
        queuing = dict.fromkeys(pool, self._queuing)
        yield Family(f"{session}queuing_latency", ("thread_pool_name",), histograms=queuing)
        yield Family(f"{session}input_batch_size", (), histograms=dict.fromkeys(none, self._given))
        yield Family(f"{session}processed_batch_size", (), histograms=dict.fromkeys(none, self._processed))
        yield Family(f"{session}padding_size", ("execution_batch_size",), histograms=self._padding)


class LoadStats:
    """Loads of versions, by their folders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: dict[tuple[str, ...], int] = {}
        self._load_us: dict[tuple[str, ...], int] = {}
        self._warm_up: dict[tuple[str, ...], Histogram] = {}
        self._records: dict[tuple[str, ...], int] = {}

    def loaded(self, path: str, seconds: float, *, well: bool) -> None:
        """A version was loaded, or could not be, after so long."""
        with self._lock:
            attempt = (path, "success" if well else "fail")
            self._attempts[attempt] = self._attempts.get(attempt, 0) + 1
            if well:
                self._load_us[(path,)] = self._load_us.get((path,), 0) + round(seconds * 1e6)

    def warmed_up(self, path: str, seconds: float, records: int, status: str) -> None:
        """The recorded requests of a version's warm-up were sent, until one failed; `status` says how that was."""
        key = (path, status)
        with self._lock:
            histogram = self._warm_up.get(key)
            if histogram is None:
                histogram = self._warm_up[key] = Histogram(LATENCY_US)
            histogram.observe(seconds * 1e6)
            self._records[key] = self._records.get(key, 0) + records

    def families(self) -> Iterable[Family]:
        """What there is now."""
        with self._lock:
            attempts, load_us, records = dict(self._attempts), dict(self._load_us), dict(self._records)
            warm_up = dict(self._warm_up)
        loader, serving = ":tensorflow:cc:saved_model:", ":tensorflow:serving:"
        labels = ("model_path", "status")
        yield Family(f"{loader}load_attempt_count", labels, attempts)
        yield Family(f"{loader}load_latency", ("model_path",), load_us)
        yield Family(f"{serving}model_warmup_latency", labels, histograms=warm_up)
        yield Family(f"{serving}model_warmup_records_read", labels, records)
