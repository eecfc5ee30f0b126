"""Starting, failing to start, crashing and ending."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.gateway.testing import (
    ROOT,
    Answer,
    Backend,
    GatewayProcess,
    backends,
    environment,
    eventually,
    free_port,
)

pytestmark = pytest.mark.timeout(100)


def gateway_command(*arguments: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.gateway", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def ended(pid: int) -> bool:
    """No such process, or one that only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    path = tmp_path / "nodes.txt"
    path.write_text("69=100,127.0.0.1:1\n")
    return path


def test_check_accepts_a_good_file(nodes: Path) -> None:
    done = gateway_command("check", "--nodes", str(nodes))
    assert done.returncode == 0
    assert "1 tasks, 1 instances, no errors" in done.stdout


def test_check_and_serve_print_every_error_and_exit_2(nodes: Path) -> None:
    nodes.write_text("x=1,a:1\n1=5,b\n")
    for command in (["check"], ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]):
        done = gateway_command(*command, "--nodes", str(nodes))
        assert done.returncode == 2
        assert f"{nodes}:1: task: 'x' is not a task id; expected" in done.stderr
        assert f"{nodes}:2: endpoint 1: 'b' has no port; expected host:port; hint:" in done.stderr


def test_a_missing_file_a_taken_port_and_bad_flags_fail_fast_and_clearly(nodes: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        cases = [
            (["serve", "--nodes", "/nowhere/nodes.txt", "--listen", "127.0.0.1:0"], "No such file"),
            (["check", "--nodes", "/nowhere/nodes.txt"], "No such file"),
            (
                ["serve", "--nodes", str(nodes), "--listen", used, "--admin", "127.0.0.1:0"],
                "choose another port with --listen",
            ),
            (
                ["serve", "--nodes", str(nodes), "--listen", "127.0.0.1:0", "--admin", used],
                "choose another address with --admin",
            ),
            (["serve", "--nodes", str(nodes), "--listen", "nonsense"], "expected HOST:PORT"),
            (["serve", "--nodes", str(nodes), "--listen", "no-such-host.invalid:80"], "has no address"),
            (
                ["serve", "--nodes", str(nodes), "--listen", "203.0.113.1:80", "--admin", "127.0.0.1:0"],
                "cannot listen on",
            ),
        ]
        for arguments, message in cases:
            started = time.monotonic()
            done = gateway_command(*arguments)
            assert done.returncode == 2, done.stderr
            assert message in done.stderr
            assert "Traceback" not in done.stderr
            assert time.monotonic() - started < 10


def test_a_port_of_another_gateway_is_taken(nodes: Path) -> None:
    with GatewayProcess(nodes) as running:
        done = gateway_command(
            "serve", "--nodes", str(nodes), "--listen", running.address, "--admin", "127.0.0.1:0"
        )
        assert done.returncode == 2
        assert "Address already in use" in done.stderr


def test_sigterm_finishes_the_calls_in_flight_and_exits_0(nodes: Path) -> None:
    with Backend() as server:
        server.delay_s = 1.0
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes, "--drain-grace", "0.5") as gateway:
            envoy = gateway.status()["gateway"]["envoy_pid"]
            answers: list[Answer] = []
            thread = threading.Thread(target=lambda: answers.append(gateway.predict("a-69")))
            thread.start()
            eventually(lambda: len(server.calls) == 1, "the call is at the backend")
            gateway.terminate()
            health = health_pb2_grpc.HealthStub(gateway.channel)
            eventually(
                lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=2).status
                == health_pb2.HealthCheckResponse.NOT_SERVING,
                "health is NOT_SERVING",
                2,
            )
            assert gateway.wait() == 0
            thread.join(5)
            assert answers[0].code == grpc.StatusCode.OK
            assert ended(envoy)


def test_calls_that_outlast_the_drain_deadline_are_cut_off(nodes: Path) -> None:
    with Backend() as server:
        server.delay_s = 8.0
        nodes.write_text(f"69=20000,{server.address}\n")
        with GatewayProcess(nodes, "--drain-deadline", "1") as gateway:
            thread = threading.Thread(target=lambda: gateway.predict("a-69", timeout=20))
            thread.start()
            eventually(lambda: len(server.calls) == 1, "the call is at the backend")
            started = time.monotonic()
            gateway.terminate()
            assert gateway.wait() == 0
            assert time.monotonic() - started < 5
            thread.join(5)
            assert "cut off" in gateway.log


def test_a_crashed_envoy_is_started_again_with_the_table_on_the_same_port(nodes: Path) -> None:
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes) as gateway:
            assert gateway.predict("a-69").code == grpc.StatusCode.OK
            os.kill(gateway.status()["gateway"]["envoy_pid"], signal.SIGKILL)
            eventually(
                lambda: gateway.predict("a-69").code == grpc.StatusCode.OK
                and gateway.status()["gateway"]["ready"],
                "it answers again",
                10,
            )
            assert gateway.status()["gateway"]["envoy_restarts"] == 1
            assert "starting it again" in gateway.log


def test_envoy_does_not_outlive_a_killed_control_plane(nodes: Path) -> None:
    gateway = GatewayProcess(nodes)
    envoy = gateway.status()["gateway"]["envoy_pid"]
    gateway.kill()
    gateway.channel.close()
    eventually(lambda: ended(envoy), "Envoy ended too", 5)


def test_envoy_serves_on_while_the_control_plane_is_frozen(nodes: Path) -> None:
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes) as gateway:
            gateway.process.send_signal(signal.SIGSTOP)
            try:
                assert {gateway.predict("a-69").code for _ in range(100)} == {grpc.StatusCode.OK}
            finally:
                gateway.process.send_signal(signal.SIGCONT)


def test_sighup_reloads(nodes: Path) -> None:
    with backends(1) as (server,), GatewayProcess(nodes) as gateway:
        nodes.write_text(f"70=5000,{server.address}\n")
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: gateway.predict("a-70").code == grpc.StatusCode.OK, "the new table works", 2)


def test_it_listens_on_names_and_on_ipv6(nodes: Path) -> None:
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,{server.address}\n")
        for listen, address in (("localhost:0", "127.0.0.1:"), ("[::1]:0", "[::1]:")):
            with GatewayProcess(nodes, "--listen", listen) as gateway:
                assert gateway.address.startswith(address)
                assert gateway.predict("a-69").code == grpc.StatusCode.OK


def test_ctrl_c_ends_it_like_sigterm(nodes: Path) -> None:
    with GatewayProcess(nodes) as gateway:
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.wait() == 0
        assert "Traceback" not in gateway.log


def test_a_name_is_resolved_before_it_takes_traffic(nodes: Path) -> None:
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,localhost:{server.port}\n")
        with GatewayProcess(nodes) as gateway:
            assert {gateway.predict("a-69").code for _ in range(20)} == {grpc.StatusCode.OK}
            assert gateway.status()["tasks"]["69"]["configured"] == [f"localhost:{server.port}"]


def test_a_thousand_tasks_load_in_seconds_and_an_edit_is_as_fast_as_with_one(nodes: Path) -> None:
    with backends(1) as (server,):
        dead = ",".join(f"127.0.0.1:{free_port()}" for _ in range(3))
        lines = [f"{task}=5000,{server.address},{dead}\n" for task in range(1, 1001)]
        nodes.write_text("".join(lines))
        started = time.monotonic()
        with GatewayProcess(nodes) as gateway:
            assert time.monotonic() - started < 60  # 2 to 4 s on two idle cores
            for task in (1, 500, 1000):
                assert gateway.predict(f"a-{task}").code == grpc.StatusCode.OK
            edited = time.monotonic()
            gateway.write_nodes("".join(lines) + f"5000=5000,{server.address}\n")
            eventually(
                lambda: gateway.predict("a-5000").code == grpc.StatusCode.OK, "the new task takes calls", 5
            )
            assert time.monotonic() - edited < 15
            assert len(gateway.status()["tasks"]) == 1001
