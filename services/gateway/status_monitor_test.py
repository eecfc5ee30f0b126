from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from libs.balancing.controller import EndpointReport
from libs.balancing.endpoint import Endpoint
from services.gateway import metrics_counters
from services.gateway.load_reports import CallCounts
from services.gateway.metrics_counters import CounterFile
from services.gateway.process import EnvoyAdmin
from services.gateway.status_monitor import Cached, Monitor, Sources
from services.gateway.testing_counters import Writer
from services.gateway.testing_status import OVERVIEW, A, B, view


class Envoy(EnvoyAdmin):
    """Answers as Envoy would, or not at all."""

    def __init__(self) -> None:
        super().__init__("")
        self.gone = False

    async def json(self, target: str) -> Any:
        if self.gone:
            raise OSError("gone")
        if target.startswith("/clusters"):
            address = {"socket_address": {"address": A.host, "port_value": A.port}}
            host = {"address": address, "health_status": {}, "stats": [{"name": "rq_active", "value": "3"}]}
            return {"cluster_statuses": [{"name": "task-69", "host_statuses": [host]}]}
        return {
            "stats": [
                {"name": "http.public.downstream_cx_active", "value": 7},
                {"name": "listener.public.downstream_cx_overflow", "value": 1},
                {"name": "listener.public.downstream_global_cx_overflow", "value": 2},
                {"name": "cluster.task-69.outlier_detection.ejections_enforced_total", "value": 4},
                {"histograms": {}},
            ]
        }


class Setup:
    def __init__(self, folder: Path) -> None:
        self.now, self.envoy, self.calls = 100.0, Envoy(), CallCounts()
        self.counters = CounterFile.create(folder / "calls", threads=1)
        self.writer = Writer(self.counters.path, 0)
        given = view()
        self.monitor = Monitor(
            Sources(
                overview=lambda: OVERVIEW,
                table=lambda: given.table,
                groups=lambda: given.groups,
                weights=lambda pool: given.weights[pool],
                envoy=lambda: self.envoy,
                calls=self.calls,
                counters=lambda: self.counters,
            ),
            clock=lambda: self.now,
        )

    def second(self, *, calls: int = 0) -> None:
        """One second passes with so many calls of task 69, all at A; each takes 2 ms, and the last fails."""
        self.now += 1
        for n in range(calls):
            last = n == calls - 1
            self.writer.call("69", duration_us=2000, code=14 * last, reason="broken_off" if last else "")
            self.writer.instance("task-69", A, latency_us=1500)
        if calls:
            self.calls.add({"task-69": [EndpointReport(A, calls - 1, 1)]})
        self.monitor.tick()


@pytest.fixture()
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


async def test_rates_of_tasks_and_instances_come_from_the_counters(setup: Setup) -> None:
    for _ in range(30):
        setup.second(calls=10)
    found = await setup.monitor.view()
    short, long = found.windows["69"]
    assert (short.rate, short.error_ratio, short.fault_ratio) == (10.0, 0.1, 0.1)
    assert long.calls == 290  # all that came since the first look
    rates = found.instance_rates["task-69", A]
    assert rates.rate == pytest.approx(10.0)
    assert rates.error_ratio == pytest.approx(0.1)
    assert rates.mean_s == pytest.approx(0.0015)
    assert ("task-69", B) not in found.instance_rates
    assert found.hosts["task-69"][str(A)].in_flight == 3
    assert (found.envoy["connections"], found.envoy["connections_refused"]) == (7, 3)
    assert [round(point.rate) for point in setup.monitor.plots(["69"])["69"]] == [10] * 5


async def test_the_numbers_for_prometheus(setup: Setup) -> None:
    setup.second(calls=5)
    found = await setup.monitor.numbers()
    assert found.tasks["69"].calls == 5
    assert found.attempts == {("task-69", A): (4, 1)}
    assert found.instances["task-69", A].answered == 5
    assert found.ejections == {"task-69": 4}


async def test_an_envoy_that_does_not_answer_is_a_problem_and_the_rest_is_told(setup: Setup) -> None:
    setup.second(calls=5)
    setup.envoy.gone = True
    found = await setup.monitor.view()
    assert "does not answer: gone" in found.overview.envoy_error
    assert found.counts["69"].calls == 5
    assert not (await setup.monitor.numbers()).envoy


def test_instances_that_left_their_pool_give_their_room_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_counters, "INSTANCE_SLOTS", 16)
    setup = Setup(tmp_path)
    for number in range(10):
        setup.writer.instance("task-69", Endpoint(f"10.1.0.{number}", 8500), latency_us=1500)
    for _ in range(60):
        setup.second(calls=1)
    assert setup.counters.instances().keys() == {("task-69", A)}


async def test_what_is_dear_is_asked_for_once_at_a_time_and_not_too_often() -> None:
    asked = 0

    async def get() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return asked

    cached = Cached(get, least_s=60.0)
    assert await asyncio.gather(*(cached.get() for _ in range(5))) == [1] * 5
    eager = Cached(get, least_s=0.0)
    assert await eager.get() == 2
    await asyncio.sleep(0.2)  # more than five times as long as it takes
    assert await eager.get() == 3
