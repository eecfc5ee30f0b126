from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.images import probe

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def serving(status: int | None) -> Iterator[int]:
    """The port of a gRPC server; with None it knows nothing of health."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    if status is not None:
        servicer = health.HealthServicer()
        servicer.set("", status)
        servicer.set("models", NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(10)


@contextmanager
def answering(data: bytes | None) -> Iterator[int]:
    """The port of a server that answers one connection with these bytes and closes it; with None it is silent."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        done = threading.Event()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                if data is None:
                    done.wait(30)
                else:
                    connection.recv(65536)
                    connection.sendall(data)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join(10)


def test_serving() -> None:
    with serving(SERVING) as port:
        probe.check(port)


def test_not_serving() -> None:
    with serving(NOT_SERVING) as port, pytest.raises(probe.NotServingError, match="not SERVING"):
        probe.check(port)


def test_a_service_by_name() -> None:
    with serving(SERVING) as port:
        with pytest.raises(probe.NotServingError, match="not SERVING"):
            probe.check(port, "models")
        with pytest.raises(probe.NotServingError, match="not SERVING"):
            probe.check(port, "unknown")


def test_a_server_without_health() -> None:
    with serving(None) as port, pytest.raises(probe.NotServingError, match="an error"):
        probe.check(port)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\x00"])
def test_what_is_not_http2(data: bytes) -> None:
    with answering(data) as port, pytest.raises((probe.NotServingError, ConnectionError)):
        probe.check(port)


def test_silence() -> None:
    with answering(None) as port, pytest.raises(probe.NotServingError, match="in time"):
        probe.check(port, deadline_s=0.2)


def test_as_the_image_runs_it() -> None:
    with serving(SERVING) as port:
        command = [sys.executable, "-IS", probe.__file__, str(port)]
        assert subprocess.run(command, timeout=60, check=False).returncode == 0
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "refused" in done.stdout
