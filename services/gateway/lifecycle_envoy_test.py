"""Starting, failing to start, crashing and ending."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.gateway.testing import (
    ROOT,
    Answer,
    Backend,
    GatewayProcess,
    Load,
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
    assert "1 tasks, 1 pools, 1 instances, no errors" in done.stdout


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


def test_a_hung_envoy_is_replaced(nodes: Path) -> None:
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes) as gateway:
            hung = gateway.status()["gateway"]["envoy_pid"]
            os.kill(hung, signal.SIGSTOP)
            eventually(
                lambda: gateway.predict("a-69", timeout=1).code == grpc.StatusCode.OK, "another answers", 60
            )
            assert gateway.status()["gateway"]["envoy_pid"] != hung
            assert "Envoy has not answered" in gateway.log


def descendants(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found |= {int(child)} | descendants(int(child))
    return found


def control_of(gateway: GatewayProcess) -> int:
    """The control plane's process."""
    (pid,) = descendants(gateway.process.pid) - {gateway.status()["gateway"]["envoy_pid"]}
    return pid


def test_a_killed_supervisor_leaves_nothing_and_the_next_one_cleans_up(
    nodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    gateway = GatewayProcess(nodes)
    children = descendants(gateway.process.pid)
    assert len(children) == 2
    gateway.kill()
    gateway.channel.close()
    eventually(lambda: all(map(ended, children)), "both ended too", 5)
    (left,) = tmp_path.glob("dl-gateway-*")
    with GatewayProcess(nodes):
        assert not left.exists()
        assert len(list(tmp_path.glob("dl-gateway-*"))) == 1
    assert not list(tmp_path.glob("dl-gateway-*"))


def test_a_killed_control_plane_comes_back_under_load_and_loses_no_call(nodes: Path) -> None:
    with backends(2) as (one, two):
        nodes.write_text(f"69=5000,{one.address},{two.address}\n")
        with GatewayProcess(nodes) as gateway:
            with Load(lambda: gateway.predict("a-69"), threads=4) as load:
                for _ in range(3):
                    time.sleep(0.5)
                    replace_control(gateway)
                eventually(lambda: gateway.status()["config"]["accepted"], "Envoy took the new stream")
                gateway.write_nodes(f"69=5000,{one.address}\n70=5000,{two.address}\n")
                eventually(lambda: gateway.predict("a-70").code == grpc.StatusCode.OK, "an edit works")
            assert load.failures() == []
            assert gateway.status()["config"]["version"] == 2
            assert "the control plane ended with status -9" in gateway.log


def replace_control(gateway: GatewayProcess) -> None:
    """Kills the control plane and waits for the next one."""
    before = control_of(gateway)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: control_of_or_none(gateway) not in (None, before), "another one")


def control_of_or_none(gateway: GatewayProcess) -> int | None:
    try:
        return control_of(gateway)
    except (OSError, ValueError):  # between two of them
        return None


def test_a_control_plane_that_starts_again_on_a_bad_file_goes_on_with_what_envoy_has(nodes: Path) -> None:
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes) as gateway:
            gateway.write_nodes("nonsense")
            eventually(lambda: gateway.status()["config"]["rejected"] == 1, "the edit was seen")
            before = gateway.status()["gateway"]
            replace_control(gateway)
            # Not even a new Envoy lacks the table.
            os.kill(before["envoy_pid"], signal.SIGKILL)
            eventually(lambda: gateway.predict("a-69").code == grpc.StatusCode.OK, "Envoy has the table", 15)
            assert gateway.status()["config"]["errors"]
            gateway.write_nodes(f"70=5000,{server.address}\n")
            eventually(lambda: gateway.predict("a-70").code == grpc.StatusCode.OK, "an edit works")
            assert not gateway.status()["config"]["errors"]


def test_a_frozen_control_plane_is_replaced_while_envoy_serves_on(nodes: Path) -> None:
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes) as gateway, Load(lambda: gateway.predict("a-69"), threads=2) as load:
            frozen = control_of(gateway)
            os.kill(frozen, signal.SIGSTOP)
            eventually(lambda: "the control plane hangs" in gateway.log, "it was noticed", 20)
            eventually(lambda: control_of_or_none(gateway) not in (None, frozen), "another one")
            gateway.write_nodes(f"70=5000,{server.address}\n69=5000,{server.address}\n")
            eventually(lambda: gateway.predict("a-70").code == grpc.StatusCode.OK, "an edit works")
        assert load.failures() == []


def test_both_children_killed_at_once_come_back(nodes: Path) -> None:
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes) as gateway:
            for child in descendants(gateway.process.pid):
                os.kill(child, signal.SIGKILL)
            eventually(lambda: gateway.predict("a-69").code == grpc.StatusCode.OK, "it answers again", 15)


def test_a_gateway_ends_in_order_while_its_control_plane_is_frozen(nodes: Path) -> None:
    with Backend() as server:
        server.delay_s = 1.0
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes) as gateway:
            os.kill(control_of(gateway), signal.SIGSTOP)
            answers: list[Answer] = []
            thread = threading.Thread(target=lambda: answers.append(gateway.predict("a-69")))
            thread.start()
            eventually(lambda: len(server.calls) == 1, "the call is at the backend")
            gateway.terminate()
            assert gateway.wait() == 0
            thread.join(5)
            assert answers[0].code == grpc.StatusCode.OK


def test_a_long_tmpdir_is_no_hindrance(nodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(nodes) as gateway:
            assert gateway.predict("a-69").code == grpc.StatusCode.OK


def test_sighup_reloads(nodes: Path) -> None:
    with backends(1) as (server,), GatewayProcess(nodes) as gateway:
        nodes.write_text(f"70=5000,{server.address}\n")
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: gateway.predict("a-70").code == grpc.StatusCode.OK, "the new table works", 2)


def test_sighup_opens_a_rotated_access_log_anew(tmp_path: Path) -> None:
    with backends(1) as (server,):
        log, old = tmp_path / "access.log", tmp_path / "access.log.1"
        config = tmp_path / "gateway.toml"
        config.write_text(
            f'[tasks.69]\nendpoints = ["{server.address}"]\n[access_log]\npath = "access.log"\nwhen = "all"\n'
        )
        with GatewayProcess(config) as gateway:
            gateway.predict("before-69")
            eventually(lambda: log.exists() and log.read_text() != "", "a line in the log")
            log.rename(old)
            gateway.process.send_signal(signal.SIGHUP)
            eventually(log.exists, "a new file")
            gateway.predict("after-69")
            eventually(lambda: log.read_text() != "", "a line in the new file")
            assert old.read_text().count("\n") == 1


def test_every_file_that_the_configuration_names_is_followed(tmp_path: Path) -> None:
    nodes, config = tmp_path / "elsewhere" / "nodes.txt", tmp_path / "gateway.toml"
    nodes.parent.mkdir()
    config.write_text(f'nodes = "{nodes}"\n')
    with backends(1) as (server,):
        nodes.write_text(f"69=5000,{server.address}\n")
        with GatewayProcess(config) as gateway:
            assert gateway.predict("a-69").code == grpc.StatusCode.OK
            nodes.write_text(f"70=5000,{server.address}\n")
            eventually(lambda: gateway.predict("a-70").code == grpc.StatusCode.OK, "its node file")
            # A file that is named only now, and does not exist yet.
            other = tmp_path / "other" / "nodes.txt"
            config.write_text(f'nodes = "{other}"\n')
            eventually(lambda: gateway.status()["config"]["errors"] != [], "what is wrong is told")
            assert gateway.predict("a-70").code == grpc.StatusCode.OK
            other.parent.mkdir()
            other.write_text(f"71=5000,{server.address}\n")
            eventually(lambda: gateway.predict("a-71").code == grpc.StatusCode.OK, "it is there now", 10)
            assert gateway.status()["config"]["errors"] == []


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

            def served(task: int) -> bool:
                return bool(gateway.predict(f"a-{task}").code == grpc.StatusCode.OK)

            for task in (1, 500, 1000):  # the dead are tried as well until their first check is over
                eventually(partial(served, task), f"task {task} takes calls")
            edited = time.monotonic()
            gateway.write_nodes("".join(lines) + f"5000=5000,{server.address}\n")
            eventually(
                lambda: gateway.predict("a-5000").code == grpc.StatusCode.OK, "the new task takes calls", 5
            )
            assert time.monotonic() - edited < 15
            assert len(gateway.status()["tasks"]) == 1001
