"""Instances that say no, or nothing: found out, left alone, taken back."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.gateway.testing import Answer, BackendProcess, GatewayProcess, Load, eventually

pytestmark = pytest.mark.timeout(100)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    return tmp_path / "nodes.txt"


def served(answers: list[Answer]) -> Counter[str]:
    return Counter(answer.metadata.get("x-dl-instance", "") for answer in answers)


@contextlib.contextmanager
def honest_instance() -> Iterator[tuple[str, health.HealthServicer]]:
    """An instance with the health service; its address and what it says."""

    class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
        def service(self, details: grpc.HandlerCallDetails) -> object:
            if details.method.startswith("/grpc.health"):
                return None
            return grpc.unary_unary_rpc_method_handler(lambda body, context: body)

    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Echo()])
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        server.stop(None).wait()


def test_an_instance_that_says_not_serving_gets_no_calls_until_it_says_otherwise(nodes: Path) -> None:
    with honest_instance() as (one, says), honest_instance() as (two, _):
        nodes.write_text(f"69=5000,{one},{two}\n")
        with GatewayProcess(nodes) as gateway, Load(lambda: gateway.predict("a-69"), threads=2) as load:
            eventually(lambda: served(load.answers)[one] > 0, "it takes calls")
            says.set("", NOT_SERVING)
            eventually(
                lambda: served(load.answers[-200:])[one] == 0 and len(load.answers) > 200, "no more", 30
            )
            says.set("", SERVING)
            eventually(lambda: served(load.answers[-100:])[one] > 0, "again", 30)
        assert load.failures() == []


def test_health_is_told_by_task_id_and_by_model_name(nodes: Path) -> None:
    with honest_instance() as (one, _):
        nodes.write_text(f"69=5000,{one}\n70=5000,127.0.0.1:1\n")
        with GatewayProcess(nodes) as gateway:
            stub = health_pb2_grpc.HealthStub(gateway.channel)

            def told(service: str) -> int:
                watch = stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=10)
                status = int(next(watch).status)
                watch.cancel()
                return status

            eventually(lambda: told("70") == NOT_SERVING, "the dead one was checked")
            assert [told(name) for name in ("", "69", "textcnn-69", "a-70")] == [SERVING] * 3 + [NOT_SERVING]
            assert [told(name) for name in ("71", "textcnn", "x-", "-1x")] == [UNKNOWN] * 4
            with pytest.raises(grpc.RpcError) as refused:
                stub.Check(health_pb2.HealthCheckRequest(service="textcnn-71"), timeout=5)
            assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("timeout_s", [3.0, 0.5])
def test_a_frozen_instance_of_three_loses_its_calls(nodes: Path, timeout_s: float) -> None:
    threads = 6
    with (
        BackendProcess(delay_s=0.005) as one,
        BackendProcess(delay_s=0.005) as two,
        BackendProcess(delay_s=0.005) as frozen,
    ):
        nodes.write_text(f"69={timeout_s * 1000:.0f},{one.address},{two.address},{frozen.address}\n")
        with GatewayProcess(nodes) as gateway:

            def paced() -> Answer:
                time.sleep(0.02)
                return gateway.predict("a-69")

            def attempts() -> tuple[int, int]:
                """Calls sent to the frozen instance so far, and to all."""
                found = gateway.status()["tasks"]["69"]["instances"]
                counts = {instance["address"]: int(instance["requests"]) for instance in found}
                return counts[frozen.address], sum(counts.values())

            with Load(paced, threads=threads) as load:
                eventually(lambda: served(load.answers)[frozen.address] > 20, "all take calls")
                frozen.signal(signal.SIGSTOP)
                try:
                    time.sleep(timeout_s + 2.0)
                    before = attempts()
                    time.sleep(3.0)
                    after = attempts()
                finally:
                    frozen.signal(signal.SIGCONT)
                eventually(lambda: served(load.answers[-50:])[frozen.address] > 0, "it takes calls again", 30)
            # What is sent there, not what fails: a busy machine is late with calls to the others too.
            assert after[0] - before[0] <= 3 + 0.02 * (after[1] - before[1])
            # A stuck call is tried elsewhere once another one asks the frozen instance for a sign of life, which
            # few calls do where few are made: then those that were there time out. With a short timeout also those do
            # that try it out until it is ejected.
            assert len(load.failures()) <= (2 if timeout_s > 1 else 6) * threads
