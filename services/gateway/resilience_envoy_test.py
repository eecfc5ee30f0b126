"""No call is lost while instances die, come back, are exchanged by edits, and gateways go."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.gateway.testing import (
    WPAI_PATH,
    Answer,
    Backend,
    BackendProcess,
    GatewayProcess,
    Load,
    backends,
    call,
    eventually,
    free_port,
    predict_request,
)

pytestmark = pytest.mark.timeout(100)


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    return tmp_path / "nodes.txt"


def served(answers: list[Answer]) -> Counter[str]:
    return Counter(answer.metadata.get("x-dl-instance", "") for answer in answers)


def test_killing_one_of_two_instances_under_load_loses_no_call(nodes: Path) -> None:
    with BackendProcess(delay_s=0.01) as one, BackendProcess(delay_s=0.01) as two:
        nodes.write_text(f"69=5000,{one.address},{two.address}\n")
        with GatewayProcess(nodes) as gateway:
            with Load(lambda: gateway.predict("a-69"), threads=16) as load:
                time.sleep(0.7)
                one.kill()
                time.sleep(1.5)
            assert load.failures() == []
            assert set(served(load.answers)) == {one.address, two.address}
            assert served(load.answers[-100:]) == {two.address: 100}
            # Back on its old address it takes calls again, without an edit.
            with (
                BackendProcess(port=one.port, delay_s=0.01),
                Load(lambda: gateway.predict("a-69"), threads=4),
            ):
                eventually(
                    lambda: gateway.predict("a-69").metadata["x-dl-instance"] == one.address,
                    "it takes calls again",
                    20,
                )


def test_edits_under_load_move_the_traffic_and_lose_no_call(nodes: Path) -> None:
    with backends(3) as servers:
        for server in servers:
            server.delay_s = 0.02
        nodes.write_text(f"69=5000,{servers[0].address}\n")
        with GatewayProcess(nodes) as gateway, Load(lambda: gateway.predict("a-69"), threads=8) as load:
            for edit in range(1, 16):
                server = servers[edit % 3]
                mark = len(load.answers)
                gateway.write_nodes(f"69={5000 + edit},{server.address}\n{edit}=100,{server.address}\n")
                eventually(
                    lambda: served(load.answers[mark:])[server.address] > 0,  # noqa: B023 (used at once)
                    "the traffic moved",
                    10.0,
                )
        assert load.failures() == []


def test_after_an_edit_the_old_instance_gets_nothing_new(nodes: Path) -> None:
    with backends(2) as (old, new):
        nodes.write_text(f"69=5000,{old.address}\n")
        with GatewayProcess(nodes) as gateway:
            assert gateway.predict("a-69").metadata["x-dl-instance"] == old.address
            gateway.write_nodes(f"69=5000,{new.address}\n")
            eventually(
                lambda: gateway.predict("a-69").metadata["x-dl-instance"] == new.address, "moved", 10.0
            )
            before = len(old.calls)
            for _ in range(50):
                assert gateway.predict("a-69").metadata["x-dl-instance"] == new.address
            assert len(old.calls) == before


def test_calls_in_flight_finish_on_an_instance_and_a_task_that_are_removed(nodes: Path) -> None:
    with backends(2) as (slow, other):
        slow.delay_s = 5.0
        nodes.write_text(f"69=20000,{slow.address}\n70=20000,{slow.address}\n")
        with GatewayProcess(nodes) as gateway:
            answers: list[Answer] = []
            threads = [
                threading.Thread(target=lambda n=name: answers.append(gateway.predict(n, timeout=20.0)))
                for name in ("a-69", "a-70")
            ]
            for thread in threads:
                thread.start()
            eventually(lambda: len(slow.calls) == 2, "both calls are at the backend")
            gateway.write_nodes(f"69=20000,{other.address}\n")
            eventually(lambda: gateway.status()["config"]["version"] == 2, "the edit was seen", 4.5)
            eventually(lambda: gateway.status()["config"]["accepted"], "Envoy has it", 4.5)
            assert slow.finished == 0
            assert gateway.predict("a-70").code == grpc.StatusCode.NOT_FOUND
            for thread in threads:
                thread.join(20)
            assert [answer.code for answer in answers] == [grpc.StatusCode.OK] * 2


def test_a_bad_edit_changes_nothing_and_says_all_that_is_wrong(nodes: Path) -> None:
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes) as gateway:
            gateway.write_nodes(f"70=5000,{server.address}\nx=1,a:1\n71=1,nowhere\n")
            eventually(lambda: gateway.status()["config"]["rejected"] == 1, "the edit was seen")
            config = gateway.status()["config"]
            assert config["version"] == 1
            assert [error.split(": ")[0] for error in config["errors"]] == [f"{nodes}:2", f"{nodes}:3"]
            assert all(error in gateway.log for error in config["errors"])
            assert gateway.predict("a-69").code == grpc.StatusCode.OK
            assert gateway.predict("a-70").code == grpc.StatusCode.NOT_FOUND
            gateway.write_nodes("")
            eventually(lambda: gateway.status()["config"]["rejected"] == 2, "the empty file was seen")
            assert gateway.predict("a-69").code == grpc.StatusCode.OK
            gateway.write_nodes(f"70=5000,{server.address}\n")
            eventually(
                lambda: gateway.predict("a-70").code == grpc.StatusCode.OK, "the good edit works", 10.0
            )
            assert gateway.status()["config"]["errors"] == []


def test_a_call_is_retried_once_on_another_instance_and_only_when_it_was_not_answered(nodes: Path) -> None:
    with backends(2) as (one, two):
        nodes.write_text(
            f"69=5000,{one.address},{two.address}\n70=5000,127.0.0.1:{free_port()},{two.address}\n"
        )
        with GatewayProcess(nodes) as gateway:
            # Refused connections and a draining backend's UNAVAILABLE go to the other instance ...
            assert {gateway.predict("a-70").code for _ in range(30)} == {grpc.StatusCode.OK}
            one.status = grpc.StatusCode.UNAVAILABLE
            assert {gateway.predict("a-69").code for _ in range(30)} == {grpc.StatusCode.OK}
            # ... once: with both of them refusing, a call makes two attempts.
            two.status = grpc.StatusCode.UNAVAILABLE
            before = len(one.calls) + len(two.calls)
            assert gateway.predict("a-69").code == grpc.StatusCode.UNAVAILABLE
            assert len(one.calls) + len(two.calls) == before + 2
            # An answer, even an error, is an answer.
            one.status = two.status = grpc.StatusCode.INTERNAL
            before = len(one.calls) + len(two.calls)
            assert gateway.predict("a-69").code == grpc.StatusCode.INTERNAL
            assert len(one.calls) + len(two.calls) == before + 1


def test_a_late_call_is_not_run_twice(nodes: Path) -> None:
    with backends(2) as (one, two):
        one.delay_s = two.delay_s = 1.0
        nodes.write_text(f"69=200,{one.address},{two.address}\n")
        with GatewayProcess(nodes) as gateway:
            assert gateway.predict("a-69").code == grpc.StatusCode.DEADLINE_EXCEEDED
            assert len(one.calls) + len(two.calls) == 1


def test_a_call_of_many_seconds_is_not_broken_off(nodes: Path) -> None:
    # gRPC servers break off connections that ping them too often: keepalive must not do that.
    with backends(1) as (server,):
        server.delay_s = 6.0
        nodes.write_text(f"69=20000,{server.address}\n")
        with GatewayProcess(nodes) as gateway:
            answer = gateway.predict("a-69", timeout=15)
            assert (answer.code, len(server.calls)) == (grpc.StatusCode.OK, 1)


def test_a_failing_instance_loses_its_share_by_weight_and_gets_it_back(nodes: Path) -> None:
    with backends(2) as (bad, good):
        nodes.write_text(f"69=5000,{bad.address},{good.address}\n")
        with GatewayProcess(nodes) as gateway:

            def weight() -> Any:
                return {i["address"]: i["weight"] for i in gateway.status()["tasks"]["69"]["instances"]}[
                    bad.address
                ]

            bad.status = grpc.StatusCode.INTERNAL
            with Load(lambda: gateway.predict("a-69"), threads=4) as load:
                eventually(lambda: weight() <= 25, "its weight falls", 5)
                time.sleep(1.0)
                mark = len(load.answers)
                time.sleep(1.0)
                recent = served(load.answers[mark:])
                assert recent[bad.address] < 0.2 * recent.total()
                bad.status = grpc.StatusCode.OK
                eventually(lambda: weight() == 100, "its weight comes back", 15)


def test_a_gateway_that_drains_loses_no_call(nodes: Path) -> None:
    with Backend() as server:
        server.delay_s = 0.05
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes) as staying, GatewayProcess(nodes) as leaving:
            channel = grpc.insecure_channel(
                f"ipv4:{staying.address},{leaving.address}", options=[("grpc.lb_policy_name", "round_robin")]
            )
            request = predict_request("a-69")
            with channel, Load(lambda: call(channel, WPAI_PATH + "Predict", request), threads=8) as load:
                time.sleep(1.0)
                leaving.terminate()
                assert leaving.wait() == 0
                time.sleep(0.5)
            assert load.failures() == []


def test_restarting_every_instance_one_after_the_other_loses_no_call(nodes: Path) -> None:
    servers = [Backend(), Backend()]
    try:
        for server in servers:
            server.delay_s = 0.01
        nodes.write_text(f"69=5000,{servers[0].address},{servers[1].address}\n")
        with GatewayProcess(nodes) as gateway, Load(lambda: gateway.predict("a-69"), threads=8) as load:
            for turn in range(4):
                old = servers[turn % 2]
                old.stop(grace=1.0)
                servers[turn % 2] = fresh = Backend(old.port)
                fresh.delay_s = 0.01

                def takes_calls(instance: Backend = fresh) -> bool:
                    return instance.finished > 5

                eventually(takes_calls, "the fresh one takes calls", 20)
        assert load.failures() == []
    finally:
        for server in servers:
            server.stop()
