from __future__ import annotations

import asyncio
from collections import Counter
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from libs.balancing.endpoint import Endpoint
from services.gateway.health_ask import Asker
from services.gateway.health_probes import CONCURRENT, Answer, HealthProbes, Target, decide
from services.gateway.table import HealthCheck
from services.gateway.testing import Backend, free_port

STATUS, REFUSED, SILENT = Answer.STATUS, Answer.REFUSED, Answer.SILENT


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([], None),
        ([SILENT, SILENT], None),
        ([STATUS, SILENT], HealthCheck.GRPC),
        ([STATUS, STATUS], HealthCheck.GRPC),
        ([STATUS, REFUSED], HealthCheck.HTTP2),
        ([REFUSED, SILENT], HealthCheck.HTTP2),
    ],
)
def test_grpc_only_where_somebody_answers_and_nobody_refuses(
    answers: list[Answer], kind: HealthCheck | None
) -> None:
    assert decide(answers) == kind


def target(number: int) -> Target:
    return Target(Endpoint("10.0.0.1", number))


class World:
    """Instances that answer as they are told, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answers: dict[Target, Answer] = {}
        self.asked: Counter[Target] = Counter()
        self.at_once = self.most_at_once = 0
        self.changes = 0
        self.probes = HealthProbes(self.ask, self.changed, clock=lambda: self.now)

    async def ask(self, target: Target) -> Answer:
        self.asked[target] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        return self.answers.get(target, SILENT)

    def changed(self) -> None:
        self.changes += 1


async def test_pools_are_found_out_once_and_looked_at_again_when_an_instance_is_new() -> None:
    world = World()
    world.answers = {target(1): STATUS, target(2): STATUS, target(3): REFUSED}
    world.probes.use({"a": [target(1), target(2)], "b": [target(3)], "c": [target(4)]})
    await world.probes.look()
    assert world.probes.health == {"a": HealthCheck.GRPC, "b": HealthCheck.HTTP2}
    assert world.changes == 1
    await world.probes.look()
    assert set(world.asked.values()) == {1}
    world.answers[target(5)] = REFUSED
    world.probes.use({"a": [target(1), target(5)]})
    await world.probes.look()
    assert world.probes.health == {"a": HealthCheck.HTTP2}
    assert world.asked[target(1)] == 1


async def test_a_silent_instance_is_asked_again_ever_more_seldom_and_keeps_what_it_said() -> None:
    world = World()
    world.probes.use({"a": [target(1)]})
    for _ in range(100):
        await world.probes.look()
        world.now += 10
    assert 4 <= world.asked[target(1)] <= 8
    assert world.probes.health == {}
    world.answers[target(1)] = STATUS
    world.now += 600
    await world.probes.look()
    assert world.probes.health == {"a": HealthCheck.GRPC}
    world.answers[target(1)] = SILENT
    world.now += 600
    await world.probes.look()
    assert world.probes.health == {"a": HealthCheck.GRPC}


async def test_few_are_asked_at_once() -> None:
    world = World()
    world.probes.use({str(n): [target(n)] for n in range(1, 101)})
    looking = asyncio.create_task(world.probes.look())
    await asyncio.sleep(0.2)
    looking.cancel()
    assert world.most_at_once == CONCURRENT
    assert world.asked.total() == CONCURRENT  # the next ones half a second later


async def test_real_instances() -> None:
    asker = Asker(dict)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Backend() as plain:
            for status in (
                health_pb2.HealthCheckResponse.SERVING,
                health_pb2.HealthCheckResponse.NOT_SERVING,
            ):
                servicer.set("", status)
                assert await asker.ask(Target(Endpoint("127.0.0.1", port))) is STATUS
            assert await asker.ask(Target(Endpoint("127.0.0.1", plain.port))) is REFUSED
            assert await asker.ask(Target(Endpoint("127.0.0.1", free_port()))) is SILENT
    finally:
        server.stop(None)
