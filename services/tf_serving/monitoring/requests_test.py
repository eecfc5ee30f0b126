from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from libs.serving.call import Call, HttpRequest, HttpResponse
from libs.serving.errors import NotFound
from libs.serving.metrics import Histogram
from services.tf_serving.monitoring.page import Family
from services.tf_serving.monitoring.requests import LATENCY_US, RequestStats


class Clock:
    """Goes on by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """Handlers that take their time, and their counts."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.stats = RequestStats(self.clock)
        self.predict = self.stats.watched("Predict", self._handle)
        self.rest = self.stats.watched_rest(lambda request: ("m", "predict"), self._rest)

    async def _handle(self, call: Call, body: bytes) -> bytes:
        call.subject, _, what = body.decode().partition(":")
        self.clock.now += 0.001
        self._raise(what)
        return body

    async def _rest(self, request: HttpRequest) -> HttpResponse:
        self.clock.now += 0.002
        self._raise(request.body.decode())
        return HttpResponse(200)

    def _raise(self, what: str) -> None:
        errors: Mapping[str, BaseException] = {
            "no": NotFound("no"),
            "defect": KeyError("x"),
            "cancel": asyncio.CancelledError(),
        }
        if what in errors:
            raise errors[what]

    async def call(self, body: str, deadline: float | None = None) -> bytes:
        return await self.predict(Call("Predict", {}, deadline), body.encode())

    def family(self, name: str) -> Family:
        (found,) = (
            family for family in self.stats.families() if family.name == f":tensorflow:serving:{name}"
        )
        return found

    def histogram(self, name: str, *labels: str) -> Histogram:
        histograms = self.family(name).histograms
        assert histograms is not None
        return histograms[labels]


@pytest.fixture
def watched() -> Watched:
    return Watched()


async def test_what_went_well_is_timed_and_counted(watched: Watched) -> None:
    for model in ("a", "a", "b"):
        assert await watched.call(f"{model}:") == f"{model}:".encode()
    await watched.rest(HttpRequest("POST", "/"))
    assert watched.family("request_count").counters == {("a", "OK"): 2, ("b", "OK"): 1, ("m", "OK"): 1}
    for labels, count, total in (
        (("a", "Predict", "GRPC"), 2, 2000.0),
        (("b", "Predict", "GRPC"), 1, 1000.0),
        (("m", "predict", "REST"), 1, 2000.0),
    ):
        histogram = watched.histogram("request_latency", *labels)
        assert sum(histogram.counts) == count and histogram.total == pytest.approx(total)
        assert histogram.bounds == LATENCY_US
    # 1000 us lie above 612.22 and below 1102.
    assert watched.histogram("request_latency", "b", "Predict", "GRPC").counts[8] == 1


async def test_failures_are_counted_by_status_and_not_timed(watched: Watched) -> None:
    for body, deadline, error in (
        ("a:no", None, NotFound),
        ("a:no", None, NotFound),
        ("a:defect", None, KeyError),
        ("a:cancel", None, asyncio.CancelledError),
        ("a:cancel", 100.0, asyncio.CancelledError),
    ):
        with pytest.raises(error):
            await watched.call(body, deadline)
    with pytest.raises(NotFound):
        await watched.rest(HttpRequest("POST", "/", body=b"no"))
    assert watched.family("request_count").counters == {
        ("a", "NOT_FOUND"): 2,
        ("a", "INTERNAL"): 1,
        ("a", "CANCELLED"): 1,
        ("a", "DEADLINE_EXCEEDED"): 1,
        ("m", "NOT_FOUND"): 1,
    }
    assert not watched.family("request_latency").histograms


async def test_names_that_callers_make_up_do_not_grow_without_end(watched: Watched) -> None:
    for number in range(1200):
        with pytest.raises(NotFound):
            await watched.call(f"model-{number}:no")
    counters = watched.family("request_count").counters
    assert len(counters) == 1001 and counters[("", "NOT_FOUND")] == 200


def test_runs_and_examples(watched: Watched) -> None:
    watched.stats.ran("Predict", "a", 50e-6)
    watched.stats.ran("Predict", "a", 150e-6)
    watched.stats.examples("a", 3)
    watched.stats.examples("a", 5)
    runtime = watched.histogram("runtime_latency", "a", "Predict", "TF1")
    assert sum(runtime.counts) == 2 and runtime.total == pytest.approx(200.0)
    examples: Any = watched.histogram("request_example_counts", "a")
    assert (sum(examples.counts), examples.total) == (2, 8)
    assert watched.family("request_example_count_total").counters == {("a",): 8}
