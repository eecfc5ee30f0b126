"""`run_server` as an operator sees it: real processes, real signals."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]
import pytest

from libs.serving.testing import ServerProcess, alive, eventually, pyvoy_server

TIMEOUT_S = 20.0


def _get(
    address: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def _health(address: str) -> bytes:
    with grpc.insecure_channel(address) as channel:
        answer: bytes = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=TIMEOUT_S)
        return answer


def _gone(server: ServerProcess, pids: list[int]) -> bool:
    return server.process.poll() is not None and not any(alive(pid) for pid in pids)


def test_probes_and_metrics(pyvoy: ServerProcess) -> None:
    assert _get(pyvoy.address, "GET", "/health/live")[:2] == (200, b"live\n")
    assert _get(pyvoy.address, "GET", "/health/ready")[:2] == (200, b"ready\n")
    with grpc.insecure_channel(pyvoy.address) as channel:
        for _ in range(3):
            channel.unary_unary("/test.Test/Deadline")(b"", timeout=TIMEOUT_S)
        channel.unary_unary("/test.Test/Model")(b"0 x", timeout=TIMEOUT_S)
    status, body, headers = _get(pyvoy.address, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    text = body.decode()
    for line in text.splitlines():
        if line.startswith("grpc_server_handled_total") and 'grpc_method="Deadline"' in line:
            assert 'grpc_code="OK"' in line
            assert 'grpc_service="test.Test"' in line
            assert float(line.rpartition(" ")[2]) >= 3
            break
    else:
        raise AssertionError(text)
    assert 'serving_batch_items_bucket{le="1.0",model="test"}' in text
    assert 'serving_queue_rows{model="test"} 0.0' in text
    assert "serving_calls_in_flight 0.0" in text
    openmetrics = _get(pyvoy.address, "GET", "/metrics", accept="application/openmetrics-text")
    assert openmetrics[2]["content-type"].startswith("application/openmetrics-text")
    assert openmetrics[1].endswith(b"# EOF\n")


def test_plain_http(pyvoy: ServerProcess) -> None:
    status, body, headers = _get(
        pyvoy.address, "POST", "/http/echo?a=1&b=%20", b"hello", **{"User-Agent": "me"}
    )
    assert status == 200
    assert headers["x-extra"] == "1"
    assert json.loads(body) == {
        "method": "POST",
        "path": "/http/echo",
        "query": "a=1&b=%20",
        "body": "hello",
        "agent": "me",
    }
    assert _get(pyvoy.address, "GET", "/http/fail")[:2] == (400, b"this is wrong\n")
    status, body, _ = _get(pyvoy.address, "GET", "/http/fail?defect")
    assert status == 500
    assert b"secret" not in body
    assert _get(pyvoy.address, "GET", "/nope")[0] == 404
    status, _, headers = _get(pyvoy.address, "GET", "/http/echo")
    assert (status, headers["allow"]) == (405, "POST")
    status, _, headers = _get(pyvoy.address, "GET", "/test.Test/Echo")
    assert (status, headers["allow"]) == (405, "POST")
    assert (
        _get(pyvoy.address, "POST", "/test.Test/Echo", b"{}", **{"content-type": "application/json"})[0]
        == 415
    )
    assert _get(pyvoy.address, "POST", "/http/echo", bytes(7 << 20))[0] == 413


def _free_port() -> int:
    """One that the kernel gives to nobody who asks for any."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def test_a_second_port_for_plain_http_alone() -> None:
    port = _free_port()
    with pyvoy_server(http_port=port) as server:
        second = f"127.0.0.1:{port}"
        for address in (server.address, second):
            assert _get(address, "GET", "/health/ready")[:2] == (200, b"ready\n")
            status, body, _ = _get(address, "POST", "/http/echo?b=%20", b"hello")
            assert (status, json.loads(body)["query"]) == (200, "b=%20")
        assert _health(server.address) == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as caught:
            _health(second)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert f"port {port} serves plain HTTP" in (caught.value.details() or "")
        with pyvoy_server(ready=False, http_port=port) as another:
            assert another.wait() == 1
            assert f"error: cannot listen on {second}: Address already in use" in another.stderr
        assert server.stop() == 0
    with pytest.raises(OSError):
        _get(second, "GET", "/health/ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_calls_in_flight_finish(tmp_path: Path, number: signal.Signals) -> None:
    shutdown_file = tmp_path / "shutdown"
    with pyvoy_server({"shutdown_file": str(shutdown_file)}, drain_grace_s=1.5) as server:
        pids = server.envoy_pids()
        assert len(pids) == 1
        with grpc.insecure_channel(server.address) as channel:
            slow = channel.unary_unary("/test.Test/Sleep").future(b"4", timeout=TIMEOUT_S)
            queued = channel.unary_unary("/test.Test/Model").future(b"3000 done", timeout=TIMEOUT_S)
            time.sleep(0.3)
            server.process.send_signal(number)
            begin = time.monotonic()
            # Unready, yet every call is served.
            eventually(lambda: _health(server.address) == b"\x08\x02", 1.3)
            assert _get(server.address, "GET", "/health/ready")[:2] == (503, b"draining\n")
            assert channel.unary_unary("/test.Test/Echo")(b"late", timeout=TIMEOUT_S) == b"late"
            # Then nobody new gets in, and those inside finish.
            host, _, port = server.address.rpartition(":")

            def refused() -> bool:
                try:
                    socket.create_connection((host, int(port)), timeout=1).close()
                except ConnectionRefusedError:
                    return True
                return False

            eventually(refused, 5)
            assert time.monotonic() - begin > 1.4
            assert not slow.done()
            assert slow.result() == b"slept"
            assert queued.result() == b"done"
        assert server.wait() == 0
        assert _gone(server, pids)
        assert shutdown_file.read_text() == "shut down"


def test_a_call_longer_than_the_drain_deadline_is_cut_off() -> None:
    with pyvoy_server(drain_grace_s=0, drain_deadline_s=0.5) as server:
        pids = server.envoy_pids()
        with grpc.insecure_channel(server.address) as channel:
            slow = channel.unary_unary("/test.Test/Sleep").future(b"60", timeout=TIMEOUT_S)
            time.sleep(0.3)
            begin = time.monotonic()
            assert server.stop() == 1
            assert time.monotonic() - begin < 15
            assert slow.code() is grpc.StatusCode.UNAVAILABLE
        assert _gone(server, pids)
        assert "1 requests were still in flight" in server.stderr


def test_a_second_interrupt_ends_the_drain() -> None:
    with pyvoy_server(drain_grace_s=0, drain_deadline_s=60) as server:
        pids = server.envoy_pids()
        with grpc.insecure_channel(server.address) as channel:
            slow = channel.unary_unary("/test.Test/Sleep").future(b"60", timeout=TIMEOUT_S)
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert server.process.poll() is None
            server.process.send_signal(signal.SIGINT)
            assert server.wait(5) == 130
            assert slow.code() is not None
        assert _gone(server, pids)


def test_a_killed_parent_leaves_nothing_behind() -> None:
    with pyvoy_server() as server:
        pids = server.envoy_pids()
        server.process.kill()
        server.process.wait(5)
        eventually(lambda: not any(alive(pid) for pid in pids), 5)


def test_a_server_that_dies_is_reported() -> None:
    with pyvoy_server() as server:
        (pid,) = server.envoy_pids()
        os.kill(pid, signal.SIGKILL)
        assert server.wait(10) == 1
        assert "ended by itself" in server.stderr


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pyvoy_server(ready=False, port=port) as server:
            assert server.wait(10) == 1
            assert f"error: cannot listen on 127.0.0.1:{port}: Address already in use" in server.stderr


def test_a_bad_host() -> None:
    with pyvoy_server(ready=False, host="203.0.113.7") as server:
        assert server.wait(10) == 1
        assert "error: cannot listen on 203.0.113.7:0" in server.stderr


def test_a_name_for_a_host() -> None:
    with pyvoy_server(host="localhost") as server:
        assert server.address.startswith("127.0.0.1:")
        assert _health(server.address) == b"\x08\x01"
    with pyvoy_server(ready=False, host="no-such-host.invalid") as server:
        assert server.wait(30) == 1
        assert "error: cannot listen on 'no-such-host.invalid'" in server.stderr


@pytest.mark.parametrize(
    "app,expected",
    [
        ("libs.serving.no_such_module:app", "No module named 'libs.serving.no_such_module'"),
        ("libs.serving.testing_app:nope", "has no attribute 'nope'"),
    ],
)
def test_an_application_that_cannot_be_imported(app: str, expected: str) -> None:
    with pyvoy_server(ready=False, app=app) as server:
        assert server.wait(20) == 1
        assert expected in server.stderr
        assert f"error: the application {app} did not start" in server.stderr


@pytest.mark.parametrize(
    "kind,expected",
    [("refuse", "error: the model folder holds no model.pth"), ("defect", "error: KeyError: 'oops'")],
)
def test_a_startup_that_fails(kind: str, expected: str) -> None:
    with pyvoy_server({"startup": kind}, ready=False) as server:
        assert server.wait(20) == 1
        assert expected in server.stderr


def test_a_stop_during_a_long_startup() -> None:
    with pyvoy_server({"startup": "slow"}, ready=False) as server:
        pids = eventually(server.envoy_pids)
        time.sleep(1)
        assert server.stop() == 0
        assert _gone(server, pids)


def test_no_libpython_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from libs.serving import envoy_child

    monkeypatch.setattr(envoy_child, "get_envoy_environ", lambda: {"PYTHONPATH": ""})
    with pytest.raises(envoy_child.StartError, match="install libpython3"):
        envoy_child.child_environment({})
