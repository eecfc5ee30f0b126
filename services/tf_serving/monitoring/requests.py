"""Counts and durations of requests, by model: TensorFlow Serving's metrics of them.

Names, labels and buckets are those of tensorflow_serving/servables/tensorflow/util.cc; which calls count, and as what,
those of prediction_service_impl.cc and http_server.cc. Used on the event loop's thread.

Of a request that succeeds a duration is put on a list, which is a tenth of what finding its bucket costs; a thousand at
a time are counted at once, and what is left when the page is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import numpy as np

from libs.serving.call import Call, Handler, HttpHandler, HttpRequest, HttpResponse
from libs.serving.errors import ServingError
from libs.serving.metrics import Histogram
from libs.serving.status import Code, grpc_code
from services.tf_serving.monitoring.page import Family, exponential

LATENCY_US = exponential(10, 1.8, 33)
EXAMPLES = exponential(1, 2, 15)

Subject = Callable[[HttpRequest], tuple[str, str]]
"""From a REST request to the model that it names and its method."""

_COUNT_AT = 1000
_MOST_FAILURES = 1000
"""Pairs of a name and a status that are told apart. Callers make names up, and each would be a time series."""


class _Durations(list[float]):
    """Of one kind of request, in seconds, that are not counted yet."""

    __slots__ = ("histogram",)

    def __init__(self) -> None:
        self.histogram = Histogram(LATENCY_US)

    def settle(self) -> Histogram:
        """Counts them; the histogram of all there were."""
        if self:
            micros = np.array(self) * 1e6
            self.clear()
            buckets = np.searchsorted(LATENCY_US, micros, side="left")
            added = np.bincount(buckets, minlength=len(self.histogram.counts)).tolist()
            self.histogram.counts = [a + b for a, b in zip(self.histogram.counts, added, strict=True)]
            self.histogram.total += float(micros.sum())
        return self.histogram


class RequestStats:
    """The counts of one server.

    Args:
        clock: of durations, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latency: dict[tuple[str, str], dict[str, _Durations]] = {}
        self._runtime: dict[str, dict[str, _Durations]] = {}
        self._examples: dict[tuple[str, ...], Histogram] = {}
        self._failures: dict[tuple[str, ...], int] = {}

    def watched(self, api: str, handler: Handler) -> Handler:
        """A handler of gRPC whose calls count; it must say what model a call is about."""
        clock, failed = self._clock, self._failed
        known = self._latency.setdefault((api, "GRPC"), {})

        async def handle(call: Call, body: bytes) -> bytes:
            start = clock()
            try:
                answer = await handler(call, body)
            except BaseException as error:
                failed(call.subject, error, call.deadline)
                raise
            durations = known.get(call.subject) or _of(known, call.subject)
            durations.append(clock() - start)
            if len(durations) > _COUNT_AT:
                durations.settle()
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
            _add(self._latency.setdefault((method, "REST"), {}), model, clock() - start)
            return response

        return handle

    def ran(self, api: str, model: str, seconds: float) -> None:
        """A call of a model's took so long from its checked inputs to its outputs, in TensorFlow and its queue."""
        _add(self._runtime.setdefault(api, {}), model, seconds)

    def examples(self, model: str, count: int) -> None:
        """A MultiInference had so many examples. TensorFlow Serving counts no other method's."""
        histogram = self._examples.setdefault((model,), Histogram(EXAMPLES))
        histogram.observe(count)

    def families(self) -> Iterable[Family]:
        """What there is now."""
        latency: dict[tuple[str, ...], Histogram] = {
            (model, *kind): durations.settle()
            for kind, models in self._latency.items()
            for model, durations in models.items()
        }
        runtime: dict[tuple[str, ...], Histogram] = {
            (model, api, "TF1"): durations.settle()
            for api, models in self._runtime.items()
            for model, durations in models.items()
        }
        requests = dict(self._failures)
        for (model, *_), histogram in latency.items():
            key = (model, Code.OK.name)
            requests[key] = requests.get(key, 0) + sum(histogram.counts)
        serving = ":tensorflow:serving:"
        yield Family(f"{serving}request_count", ("model_name", "status"), requests)
        labels = ("model_name", "API", "entrypoint")
        yield Family(f"{serving}request_latency", labels, histograms=latency)
        labels = ("model_name", "API", "runtime")
        yield Family(f"{serving}runtime_latency", labels, histograms=runtime)
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


def _of(known: dict[str, _Durations], model: str) -> _Durations:
    durations = known.get(model)
    if durations is None:
        durations = known[model] = _Durations()
    return durations


def _add(known: dict[str, _Durations], model: str, seconds: float) -> None:
    durations = known.get(model) or _of(known, model)
    durations.append(seconds)
    if len(durations) > _COUNT_AT:
        durations.settle()
