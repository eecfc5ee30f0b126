"""How busy the worker is, as its load reports say it."""

from __future__ import annotations

from libs.serving.errors import ServingError
from libs.serving.load_report import LoadMeter, LoadReport, Totals, cpu_seconds
from libs.serving.metrics import Metrics
from services.torch_worker.execution.cores import usable_cores
from services.torch_worker.serving.repository import Repository


class Load:
    """Samples a worker's load; see `libs.serving.load_report`. Used on the event loop's thread.

    Args:
        repository: whose default version's queue and instances count.
        metrics: counts calls and the time of batches.
        max_queue_rows: bound of the queue.
    """

    def __init__(self, repository: Repository, metrics: Metrics, max_queue_rows: int) -> None:
        self._repository = repository
        self._metrics = metrics
        self._max_queue_rows = max_queue_rows
        self._cores = usable_cores()
        self._meter: LoadMeter | None = None

    def __call__(self, now: float) -> LoadReport:
        """The report of this moment; now is in seconds."""
        metrics = self._metrics
        totals = Totals(cpu_seconds(), metrics.busy_seconds, metrics.calls, metrics.failed_calls)
        try:
            servable = self._repository.default()
            instances, queued = servable.instances, servable.queued_rows
        except ServingError:  # no version is loaded
            instances, queued = 1, 0
        if self._meter is None:
            self._meter = LoadMeter(self._cores, instances, totals, now)
        return self._meter.report(totals, queued / self._max_queue_rows, now)
