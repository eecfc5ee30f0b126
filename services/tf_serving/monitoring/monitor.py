"""All that a server tells of itself under TensorFlow Serving's names."""

from __future__ import annotations

from collections.abc import Iterable

from libs.serving.call import HttpRequest, HttpResponse, Route
from libs.serving.metrics import BatchStats as Runs
from libs.serving.plain_http import plain_failure
from services.tf_serving.monitoring import page
from services.tf_serving.monitoring.page import Family
from services.tf_serving.monitoring.requests import RequestStats
from services.tf_serving.monitoring.runs import BatchStats, LoadStats


class Monitor:
    """The metrics and their page.

    Args:
        runs: of the model threads; with or without batching.
        thread_pool: the batching parameters' thread_pool_name.
    """

    def __init__(self, runs: Runs, thread_pool: str) -> None:
        self.requests = RequestStats()
        self.batches = BatchStats(thread_pool)
        self.loads = LoadStats()
        self._runs = runs

    def route(self, path: str) -> Route:
        """Serves the page."""
        return Route("GET", path, self._handle, plain_failure)

    async def _handle(self, request: HttpRequest) -> HttpResponse:
        families = (
            *self.requests.families(),
            *self.batches.families(),
            *self.loads.families(),
            *self._graph_runs(),
        )
        return HttpResponse(200, page.write(families), page.CONTENT_TYPE)

    def _graph_runs(self) -> Iterable[Family]:
        """Names of tensorflow/core/framework/metrics.cc."""
        seconds = self._runs.run_seconds
        core = ":tensorflow:core:"
        yield Family(f"{core}graph_runs", (), {(): sum(seconds.counts)})
        yield Family(f"{core}graph_run_time_usecs", (), {(): round(seconds.total * 1e6)})
