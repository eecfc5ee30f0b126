"""Instances that are up and no use: frozen, failing at once, or slow. What their callers notice."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest

from services.gateway.testing import Answer, BackendProcess, GatewayProcess, Load, backends

pytestmark = pytest.mark.timeout(100)


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    return tmp_path / "nodes.txt"


def test_an_instance_that_freezes_costs_each_caller_few_calls(nodes: Path) -> None:
    # Its kernel goes on accepting bytes and connections: nothing but silence tells, and only new calls ask. With few
    # callers, who all may wait at once, nobody asks until their deadlines, on a fresh connection once more.
    callers = 8
    with BackendProcess(delay_s=0.01) as one, BackendProcess(delay_s=0.01) as two:
        nodes.write_text(f"69=10000,{one.address},{two.address}\n")
        with GatewayProcess(nodes) as gateway:
            with Load(lambda: gateway.predict("a-69", timeout=2.0), threads=callers) as load:
                time.sleep(1.0)
                one.signal(signal.SIGSTOP)
                time.sleep(
                    10.0
                )  # two deadlines, an ejection and what comes after it; no health check so soon
                mark = len(load.answers)
                time.sleep(2.5)
            # One each, and a few that a trial or a late report costs. Five rounds of deadlines would be 40.
            assert len(load.failures()) <= 2.5 * callers
            later = load.answers[mark:]
            assert len(later) > 50
            # Trials that wait when the load ends: no call comes any more that would ask for a sign of life.
            lost = sum(answer.metadata.get("x-dl-instance") != two.address for answer in later)
            assert lost <= callers / 2 + 0.02 * len(later)


def test_an_instance_that_fails_at_once_fails_few_calls(nodes: Path) -> None:
    with backends(3) as servers:
        nodes.write_text("69=5000," + ",".join(server.address for server in servers) + "\n")
        with GatewayProcess(nodes) as gateway:
            for server in servers[1:]:
                server.delay_s = 0.02
            servers[0].status = grpc.StatusCode.INTERNAL
            with Load(lambda: gateway.predict("a-69"), threads=8) as load:
                time.sleep(3.0)
    codes = Counter(answer.code for answer in load.answers)
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.INTERNAL}
    # It has none in flight and answers first: undisturbed it would get most of the calls. A third is the fair share.
    assert codes[grpc.StatusCode.INTERNAL] < 30 < codes[grpc.StatusCode.OK] / 4


def test_long_calls_are_not_broken_off_by_the_calls_that_join_them(nodes: Path) -> None:
    # Each joins a silent connection and has it asked for a sign of life, which gRPC servers may take for abuse.
    with backends(1) as (server,):
        server.delay_s = 3.0
        nodes.write_text(f"69=20000,{server.address}\n")
        with GatewayProcess(nodes) as gateway:
            answers: list[Answer] = []
            threads = []
            for _ in range(12):
                call = threading.Thread(target=lambda: answers.append(gateway.predict("a-69", timeout=20.0)))
                call.start()
                threads.append(call)
                time.sleep(0.4)
            for call in threads:
                call.join(20)
        assert [answer.code for answer in answers] == [grpc.StatusCode.OK] * 12
        assert len(server.calls) == 12, "a call was sent again"
