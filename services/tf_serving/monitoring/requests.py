"""Counts and durations of requests, by model: TensorFlow Serving's metrics of them.

Names, labels and buckets are those of tensorflow_serving/servables/tensorflow/util.cc; which calls count, and as what,
those of prediction_service_impl.cc and http_server.cc. A request that succeeds costs a lookup and a bisection; all
else is done when the page is read. Used on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable

from libs.serving.call import Call, Handler, HttpHandler, HttpRequest, HttpResponse
from libs.serving.errors import ServingError
from libs.serving.metrics import Histogram
from libs.serving.status import Code, grpc_code
from services.tf_serving.monitoring.page import Family, exponential

LATENCY_US = exponential(10, 1.8, 33)
EXAMPLES = exponential(1, 2, 15)

Subject = Callable[[HttpRequest], tuple[str, str]]
"""From a REST request to the model that it names and its method."""

_MOST_FAILURES = 1000
"""Pairs of a name and a status that are told apart. Callers make names up, and each would be a time series."""


class RequestStats:
    """The counts of one server.

    Args:
        clock: of durations, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latency: dict[tuple[str, ...], Histogram] = {}
        self._runtime: dict[tuple[str, ...], Histogram] = {}
        self._examples: dict[tuple[str, ...], Histogram] = {}
        self._failures: dict[tuple[str, ...], int] = {}

    def watched(self, api: str, handler: Handler) -> Handler:
        """A handler of gRPC whose calls count; it must say what model a call is about."""
        clock, failed, latency = self._clock, self._failed, self._latency
        known: dict[str, Histogram] = {}

        async def handle(call: Call, body: bytes) -> bytes:
            start = clock()
            try:
                answer = await handler(call, body)
            except BaseException as error:
                failed(call.subject, error, call.deadline)
                raise
            took = (clock() - start) * 1e6
            histogram = known.get(call.subject)
            if histogram is None:
                known[call.subject] = histogram = _of(latency, LATENCY_US, call.subject, api, "GRPC")
            histogram.counts[bisect_left(LATENCY_US, took)] += 1
            histogram.total += took
            return answer

        return handle

    def watched_rest(self, subject: Subject, handler: HttpHandler) -> HttpHandler:
        """A handler of REST whose requests count."""
        clock = self._clock

        async def handle(request: HttpRequest) -> HttpResponse:
            start = clock()
            model, method = subject(request)
            try:
                response = await handler(request)
            except BaseException as error:
                self._failed(model, error, request.deadline)
                raise
            took = (clock() - start) * 1e6
            _of(self._latency, LATENCY_US, model, method, "REST").observe(took)
            return response

        return handle

    def ran(self, api: str, model: str, seconds: float) -> None:
        """A call of a model's took so long from its checked inputs to its outputs, in TensorFlow and its queue."""
        _of(self._runtime, LATENCY_US, model, api, "TF1").observe(seconds * 1e6)

    def examples(self, model: str, count: int) -> None:
        """A MultiInference had so many examples. TensorFlow Serving counts no other method's."""
        _of(self._examples, EXAMPLES, model).observe(count)

    def families(self) -> Iterable[Family]:
        """What there is now."""
        requests = dict(self._failures)
        for (model, _, _), histogram in self._latency.items():
            key = (model, Code.OK.name)
            requests[key] = requests.get(key, 0) + sum(histogram.counts)
        serving = ":tensorflow:serving:"
        yield Family(f"{serving}request_count", ("model_name", "status"), requests)
        labels = ("model_name", "API", "entrypoint")
        yield Family(f"{serving}request_latency", labels, histograms=self._latency)
        labels = ("model_name", "API", "runtime")
        yield Family(f"{serving}runtime_latency", labels, histograms=self._runtime)
        yield Family(f"{serving}request_example_counts", ("model",), histograms=self._examples)
        totals = {key: int(histogram.total) for key, histogram in self._examples.items()}
        yield Family(f"{serving}request_example_count_total", ("model",), totals)

    def _failed(self, model: str, error: BaseException, deadline: float | None) -> None:
        if isinstance(error, ServingError):
            code = grpc_code(error)
        elif isinstance(error, asyncio.CancelledError):
            late = deadline is not None and deadline <= self._clock()
            code = Code.DEADLINE_EXCEEDED if late else Code.CANCELLED
        else:
            code = Code.INTERNAL
        key = (model, code.name)
        if key not in self._failures and len(self._failures) >= _MOST_FAILURES:
            key = ("", code.name)
        self._failures[key] = self._failures.get(key, 0) + 1


def _of(histograms: dict[tuple[str, ...], Histogram], bounds: tuple[float, ...], *labels: str) -> Histogram:
    histogram = histograms.get(labels)
    if histogram is None:
        histogram = histograms[labels] = Histogram(bounds)
    return histogram
