"""Helpers of the tests that run the real Envoy: backends that answer anything, and a gateway process."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

ROOT = Path(__file__).resolve().parents[2]
WPAI_PATH = "/com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineService/"


# --- messages by hand: the routing key is read from bytes, so these tests write bytes ---


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_bytes(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def predict_request(name: str, payload: bytes = b"") -> bytes:
    """tensorflow.serving.PredictRequest with a model name, and bytes in an unknown field after it."""
    return field_bytes(1, field_bytes(1, name.encode())) + (field_bytes(100, payload) if payload else b"")


# --- backends ---


@dataclass(slots=True)
class Seen:
    """One call as a backend saw it."""

    method: str
    metadata: dict[str, str]
    time_left_s: float | None
    body: bytes


class Backend:
    """A gRPC server that echoes every unary call, after `delay_s`, with `status` when it is not OK."""

    def __init__(self, port: int = 0, *, workers: int = 32) -> None:
        self.delay_s = 0.0
        self.status = grpc.StatusCode.OK
        self.calls: list[Seen] = []
        self.finished = 0
        self._server = grpc.server(
            futures.ThreadPoolExecutor(workers),
            handlers=[_Echo(self)],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        if not self.port:
            raise OSError(f"port {port} is taken")
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self, grace: float | None = None) -> None:
        self._server.stop(grace).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def answer(self, method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = {str(k): str(v) for k, v in context.invocation_metadata()}
        self.calls.append(Seen(method, metadata, context.time_remaining(), body))
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.status != grpc.StatusCode.OK:
            context.abort(self.status, "as told")
        self.finished += 1
        return body


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = str(details.method)
        if method.startswith("/grpc.health.v1."):
            return None  # unimplemented, as at most model servers
        if method.endswith("ModelStreamInfer"):
            return grpc.stream_stream_rpc_method_handler(
                lambda requests, context: (self._backend.answer(method, body, context) for body in requests)
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda body, context: self._backend.answer(method, body, context)
        )


class BackendProcess:
    """A Backend in a process of its own, to be killed or frozen."""

    def __init__(self, *, port: int = 0, delay_s: float = 0.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.gateway.testing", str(port), str(delay_s)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.address = f"127.0.0.1:{self.port}"

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


# --- the gateway as a process ---


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class GatewayProcess:
    """`gateway serve` on loopback, with ephemeral ports."""

    def __init__(self, nodes: Path, *flags: str, start_timeout_s: float = 40.0) -> None:
        self.nodes = nodes
        self.admin_port = free_port()
        self._log: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        command = [
            sys.executable,
            "-m",
            "services.gateway",
            "serve",
            "--config" if nodes.suffix == ".toml" else "--nodes",
            str(nodes),
            "--listen",
            "127.0.0.1:0",
            "--admin",
            f"127.0.0.1:{self.admin_port}",
            "--concurrency",
            "1",
            "--drain-grace",
            "0.1",
            *flags,
        ]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for stream, sink in ((self.process.stdout, self._lines.put), (self.process.stderr, self._log.append)):
            threading.Thread(target=_pump, args=(stream, sink), daemon=True).start()
        try:
            line = self._lines.get(timeout=start_timeout_s)
        except queue.Empty:
            self.kill()
            raise AssertionError(f"the gateway did not start:\n{self.log}") from None
        if not line.startswith("READY "):
            self.kill()
            raise AssertionError(f"the gateway said {line!r}:\n{self.log}")
        self.address = line.split()[1]
        self.channel = grpc.insecure_channel(
            self.address,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_retries", 0),
            ],
        )

    @property
    def log(self) -> str:
        return "".join(self._log)

    def write_nodes(self, text: str) -> None:
        """Replaces the node file as an editor does, by a rename."""
        fresh = self.nodes.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.nodes)

    def call(
        self,
        path: str,
        body: bytes,
        *,
        timeout: float | None = 5.0,
        metadata: Sequence[tuple[str, str]] = (),
        compression: grpc.Compression | None = None,
    ) -> Answer:
        return call(self.channel, path, body, timeout=timeout, metadata=metadata, compression=compression)

    def predict(self, name: str, payload: bytes = b"", *, timeout: float | None = 5.0) -> Answer:
        return self.call(WPAI_PATH + "Predict", predict_request(name, payload), timeout=timeout)

    def admin(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=5) as reply:
            body: bytes = reply.read()
            return body

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.admin("/status.json"))
        return document

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 20.0) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()
        self.terminate()
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
        if kind is not None:
            print(self.log)


@dataclass(slots=True)
class Answer:
    """How a call ended."""

    code: grpc.StatusCode
    message: str
    body: bytes
    metadata: dict[str, str]
    took_s: float


def call(
    channel: grpc.Channel,
    path: str,
    body: bytes,
    *,
    timeout: float | None = 5.0,
    metadata: Sequence[tuple[str, str]] = (),
    compression: grpc.Compression | None = None,
) -> Answer:
    """One unary call of raw bytes, with its outcome as a value."""
    started = time.monotonic()
    stub = channel.unary_unary(path)
    try:
        reply, info = stub.with_call(body, timeout=timeout, metadata=metadata, compression=compression)
        code, message = grpc.StatusCode.OK, ""
        initial = info.initial_metadata()
    except grpc.RpcError as error:
        reply, code, message = b"", error.code(), error.details() or ""
        initial = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
    return Answer(code, message, reply, {k: str(v) for k, v in initial}, time.monotonic() - started)


@dataclass(slots=True)
class Load:
    """Calls one after the other on several threads until stopped; every outcome is kept."""

    send: Callable[[], Answer]
    threads: int = 4
    answers: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for _ in range(self.threads):
            thread = threading.Thread(target=self._run, daemon=True)
            thread.start()
            self._running.append(thread)
        return self

    def _run(self) -> None:
        while not self._stop.is_set():
            self.answers.append(self.send())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(20)

    def failures(self) -> list[tuple[str, str]]:
        return [(a.code.name, a.message) for a in self.answers if a.code != grpc.StatusCode.OK]


def eventually(check: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Waits until a condition holds. Raises AssertionError."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


def _pump(stream: Any, sink: Callable[[str], None]) -> None:
    for line in stream:
        sink(line)
    sink("")


@contextlib.contextmanager
def backends(count: int) -> Iterator[list[Backend]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Backend()) for _ in range(count)]


def _backend_main(port: int, delay_s: float) -> None:
    with Backend(port) as backend:
        backend.delay_s = delay_s
        print(backend.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    _backend_main(int(sys.argv[1]), float(sys.argv[2]))
