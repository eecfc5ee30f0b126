"""One control plane feeds several Envoys, and gRPC clients that balance by themselves."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.gateway.testing import (
    ROOT,
    WPAI_PATH,
    Backend,
    GatewayProcess,
    Load,
    backends,
    call,
    environment,
    eventually,
    free_port,
    predict_request,
)

pytestmark = pytest.mark.timeout(100)

# A process of its own: the bootstrap is read once, when gRPC is first used.
_CLIENT = """
import json, sys, time, grpc
channels = {}
for line in sys.stdin:
    name, count, timeout = json.loads(line)
    channel = channels.setdefault(name, grpc.insecure_channel("xds:///" + name))
    stub = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    codes, details, started = {}, "", time.monotonic()
    for _ in range(count):
        try:
            stub(b"x", timeout=timeout)
            code = "OK"
        except grpc.RpcError as error:
            code, details = error.code().name, error.details()
        codes[code] = codes.get(code, 0) + 1
    print(json.dumps([codes, details, time.monotonic() - started]), flush=True)
"""


class XdsClient:
    """A grpcio client that finds tasks by xDS."""

    def __init__(self, xds: str, folder: Path) -> None:
        bootstrap = folder / "bootstrap.json"
        bootstrap.write_text(
            json.dumps(
                {
                    "xds_servers": [
                        {
                            "server_uri": xds,
                            "channel_creds": [{"type": "insecure"}],
                            "server_features": ["xds_v3"],
                        }
                    ],
                    "node": {"id": "a-caller"},
                }
            )
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CLIENT],
            cwd=ROOT,
            env={**environment(), "GRPC_XDS_BOOTSTRAP": str(bootstrap)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        for line in self._process.stdout or ():
            self._answers.put(line)

    def call(self, name: str, count: int = 1, timeout_s: float = 5.0) -> tuple[dict[str, int], str, float]:
        """Calls one after the other: how many ended how, the last error's text, seconds taken."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, count, timeout_s]) + "\n")
        self._process.stdin.flush()
        codes, details, took_s = json.loads(self._answers.get(timeout=30))
        return codes, details, took_s

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


@contextmanager
def xds_client(xds: str, folder: Path) -> Iterator[XdsClient]:
    client = XdsClient(xds, folder)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    return tmp_path / "nodes.txt"


def counts(servers: list[Backend]) -> list[int]:
    return [len(server.calls) for server in servers]


def test_a_grpc_client_spreads_its_calls_and_follows_edits(nodes: Path, tmp_path: Path) -> None:
    xds = f"127.0.0.1:{free_port()}"
    with backends(3) as servers:
        one, two, three = servers
        nodes.write_text(f"69=5000,{one.address},{two.address}\n")
        with GatewayProcess(nodes, "--xds", xds) as gateway, xds_client(xds, tmp_path) as client:
            assert client.call("task-69", 60)[0] == {"OK": 60}
            assert min(counts([one, two])) > 15
            assert one.calls[-1].method == "/tensorflow.serving.PredictionService/Predict"
            assert client.call("textcnn-69", 2)[0] == {"OK": 2}
            # An edit moves it.
            gateway.write_nodes(f"69=5000,{three.address}\n")
            eventually(
                lambda: client.call("task-69")[0] == {"OK": 1} and len(three.calls) > 0, "the edit arrived", 5
            )
            before = counts([one, two])
            assert client.call("task-69", 20)[0] == {"OK": 20}
            assert counts([one, two]) == before
            # A task that does not exist fails at once, and works once it does.
            codes, details, took_s = client.call("task-70")
            assert codes == {"UNAVAILABLE": 1}
            assert "task-70" in details
            assert took_s < 5
            gateway.write_nodes(f"69=5000,{three.address}\n70=5000,{one.address}\n")
            eventually(lambda: client.call("task-70")[0] == {"OK": 1}, "the task is there", 5)
            assert "rejected" not in gateway.log


def test_what_grpc_clients_report_moves_the_weights_of_all(nodes: Path, tmp_path: Path) -> None:
    xds = f"127.0.0.1:{free_port()}"
    with backends(2) as (bad, good):
        bad.status = grpc.StatusCode.UNAVAILABLE
        nodes.write_text(f"69=5000,{bad.address},{good.address}\n")
        with GatewayProcess(nodes, "--xds", xds) as gateway, xds_client(xds, tmp_path) as client:

            def weights() -> dict[str, Any]:
                return {i["address"]: i["weight"] for i in gateway.status()["tasks"]["69"]["instances"]}

            def falls() -> bool:
                client.call("task-69", 20)
                return bool(weights()[bad.address] <= 25)

            eventually(falls, "the failing one's weight falls", 10)
            assert weights()[good.address] == 100
            before = counts([bad, good])
            assert client.call("task-69", 100)[0] == {"OK": 100}
            after = counts([bad, good])
            assert after[0] - before[0] < 0.4 * (after[1] - before[1])


def calls_of(metrics: str, address: str) -> float:
    """What the metrics page says of calls that ended at an instance."""
    lines = (line for line in metrics.splitlines() if "instance_calls_total{" in line and address in line)
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextmanager
def data_plane(xds: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`gateway data-plane`: the address that it takes calls at, and its process."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "services.gateway", "data-plane", "--xds", xds),
            *("--listen", "127.0.0.1:0", "--concurrency", "1", "--drain-grace", "0.1"),
        ],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("READY "), line
        yield line.split()[1], process
    finally:
        process.kill()
        process.wait(10)


def test_a_second_envoy_follows_the_same_control_plane_and_outlives_it(nodes: Path) -> None:
    xds = f"127.0.0.1:{free_port()}"
    with backends(2) as servers:
        one, two = servers
        nodes.write_text(f"69=5000,{one.address}\n")
        with GatewayProcess(nodes, "--xds", xds) as gateway, data_plane(xds) as (address, process):
            assert address != gateway.address
            channel = grpc.insecure_channel(address)
            request = predict_request("a-69")

            def predict(name: str = "a-69") -> Any:
                return call(channel, WPAI_PATH + "Predict", predict_request(name))

            with channel:
                assert predict().code == grpc.StatusCode.OK
                assert gateway.predict("a-69").code == grpc.StatusCode.OK
                with Load(lambda: call(channel, WPAI_PATH + "Predict", request), threads=2) as load:
                    gateway.write_nodes(f"69=5000,{two.address}\n70=5000,{one.address}\n")
                    eventually(lambda: predict("b-70").code == grpc.StatusCode.OK, "the edit reached it", 5)
                    # Both report what their callers did.
                    eventually(
                        lambda: calls_of(gateway.admin("/metrics").decode(), two.address) > 20,
                        "its calls are counted",
                        10,
                    )
                    gateway.kill()
                    mark = len(load.answers)
                    eventually(lambda: len(load.answers) > mark + 20, "it serves on")
                assert load.failures() == []
                started = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
                assert time.monotonic() - started < 5


def test_a_data_plane_without_a_control_plane_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.gateway", "data-plane", "--xds", "nonsense"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "expected HOST:PORT" in done.stderr
