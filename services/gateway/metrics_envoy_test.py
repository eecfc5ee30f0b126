"""What the real Envoy counts, seen through the admin port and the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.gateway.testing import (
    ROOT,
    WPAI_PATH,
    Backend,
    GatewayProcess,
    environment,
    eventually,
    free_port,
    predict_request,
)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, Backend, Backend, int]]:
    nodes, nobody = tmp_path_factory.mktemp("gateway") / "nodes.txt", free_port()
    with Backend() as well, Backend() as ill:
        ill.status = grpc.StatusCode.INTERNAL
        nodes.write_text(
            f"69=2000,{well.address}\n70=2000,{ill.address}\n71=2000,127.0.0.1:{nobody}\n72=60,{well.address}\n"
        )
        with GatewayProcess(nodes) as gateway:
            yield gateway, well, ill, nobody


def samples(gateway: GatewayProcess) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(gateway.admin("/metrics").decode())
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((f"dl_gateway_{name}", frozenset(labels.items())), 0.0)


def test_every_call_is_counted_by_status_reason_and_duration(
    setup: tuple[GatewayProcess, Backend, Backend, int]
) -> None:
    gateway, well, _, _ = setup
    before = samples(gateway)

    def grown(name: str, **labels: str) -> float:
        return value(samples(gateway), name, **labels) - value(before, name, **labels)

    for _ in range(5):
        gateway.predict("textcnn-69", b"x" * 1000)
    gateway.predict("bert-70")
    gateway.predict("gone-71")
    gateway.predict("unheard-of-999")
    gateway.predict("nameless")
    well.delay_s = 0.3
    gateway.predict("slow-72")
    well.delay_s = 0.0
    # Counted as a call ends, which the caller may learn a moment earlier.
    eventually(lambda: grown("requests_total", task="72", code="DEADLINE_EXCEEDED") == 1, "the last call")
    assert grown("requests_total", task="69", code="OK") == 5
    assert grown("requests_total", task="70", code="INTERNAL") == 1
    assert grown("requests_total", task="71", code="UNAVAILABLE") == 1
    assert grown("requests_total", task="unknown", code="NOT_FOUND") == 1
    assert grown("requests_total", task="unknown", code="INVALID_ARGUMENT") == 1
    assert grown("failures_total", task="70", reason="instance") == 1
    assert (
        grown("failures_total", task="71", reason="connect_failed")
        + grown("failures_total", task="71", reason="no_instance")
        == 1
    )
    assert grown("failures_total", task="unknown", reason="request") == 2
    assert grown("failures_total", task="72", reason="timeout") == 1
    assert grown("request_duration_seconds_count", task="69") == 5
    assert grown("request_duration_seconds_bucket", task="72", le="0.05") == 0
    assert grown("request_duration_seconds_bucket", task="72", le="0.5") == 1
    assert grown("received_bytes_total", task="69") > 5000
    assert grown("sent_bytes_total", task="69") > 5000


def test_instances_are_counted_and_timed(setup: tuple[GatewayProcess, Backend, Backend, int]) -> None:
    gateway, well, ill, _ = setup
    pool, instance = "task-69", well.address

    def reported() -> bool:
        # Envoy reports on a pool from a moment after it was made.
        gateway.predict("textcnn-69")
        gateway.predict("bert-70")
        found = samples(gateway)
        return (
            value(found, "instance_calls_total", pool=pool, instance=instance, outcome="ok") >= 5
            and value(found, "instance_calls_total", pool="task-70", instance=ill.address, outcome="failed")
            >= 5
        )

    eventually(reported, "the load reports")
    found = samples(gateway)
    answered = value(found, "instance_latency_seconds_count", pool=pool, instance=instance)
    assert answered >= 5
    assert 0 < value(found, "instance_latency_seconds_sum", pool=pool, instance=instance) / answered < 1
    assert value(found, "instance_weight", pool=pool, instance=instance) > 0
    assert value(found, "instance_healthy", pool=pool, instance=instance) == 1
    assert value(found, "task_pool", task="69", pool=pool, role="main") == 1
    assert value(found, "ready") == value(found, "envoy_up") == value(found, "config_accepted") == 1
    eventually(lambda: value(samples(gateway), "connections") >= 1, "the connection of this test")


def test_failed_calls_are_told_with_their_message_and_nothing_in_them_is_markup(
    setup: tuple[GatewayProcess, Backend, Backend, int]
) -> None:
    gateway, _, ill, _ = setup
    gateway.predict("bert-70")
    gateway.call(WPAI_PATH + "Predict", predict_request("<script>alert(1)</script>"))

    def told(status: str) -> dict[str, str] | None:
        calls = gateway.status()["failed_calls"]
        return next((call for call in calls if call["status"] == status), None)

    eventually(lambda: told("INTERNAL") is not None and told("INVALID_ARGUMENT") is not None, "the failures")
    call = told("INTERNAL")
    assert call is not None
    assert (call["task"], call["instance"], call["message"], call["reason"]) == (
        "70",
        ill.address,
        "as told",
        "instance",
    )
    page = gateway.admin("/").decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page


def test_counts_survive_envoy(setup: tuple[GatewayProcess, Backend, Backend, int]) -> None:
    gateway, *_ = setup
    gateway.predict("textcnn-69")
    eventually(lambda: value(samples(gateway), "requests_total", task="69", code="OK") >= 1, "the call")
    before = value(samples(gateway), "requests_total", task="69", code="OK")
    os.kill(gateway.status()["gateway"]["envoy_pid"], signal.SIGKILL)
    eventually(
        lambda: gateway.status()["gateway"]["envoy_restarts"] == 1 and gateway.status()["gateway"]["ready"],
        "Envoy is back",
        20.0,
    )
    eventually(lambda: gateway.predict("textcnn-69").code is grpc.StatusCode.OK, "calls pass")
    eventually(
        lambda: value(samples(gateway), "requests_total", task="69", code="OK") > before, "they count on"
    )


def test_envoys_own_statistics_are_there_and_nothing_else_of_its_admin(
    setup: tuple[GatewayProcess, Backend, Backend, int]
) -> None:
    gateway, *_ = setup
    found = gateway.admin("/envoy/stats?filter=server.uptime").decode()
    assert "envoy_server_uptime" in found
    assert "envoy_cluster" not in found
    for target in ("/envoy/stats?filter=a%20HTTP/1.1", "/envoy/quitquitquit", "/quitquitquit"):
        with pytest.raises(OSError, match="HTTP Error 40"):
            gateway.admin(target)


def status_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.gateway", "status", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_the_command_says_the_same_and_exits_by_health(
    setup: tuple[GatewayProcess, Backend, Backend, int]
) -> None:
    gateway, *_, nobody = setup
    admin = f"127.0.0.1:{gateway.admin_port}"
    eventually(
        lambda: gateway.status()["tasks"]["71"]["trouble"] == "down", "the check of task 71's instance"
    )
    found = status_command("--admin", admin)
    assert found.returncode == 1
    assert "\x1b" not in found.stdout  # not a terminal
    assert f"127.0.0.1:{nobody}" in found.stdout
    one = status_command("--admin", admin, "--task", "69")
    assert "69" in one.stdout
    assert f"127.0.0.1:{nobody}" not in one.stdout.split("the last")[0]
    assert '"state": "serving"' in status_command("--admin", admin, "--json").stdout
    assert status_command("--admin", admin, "--task", "12345").returncode == 1
    assert status_command("--admin", f"127.0.0.1:{free_port()}").returncode == 2


def test_the_command_exits_with_0_when_all_is_well(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.txt"
    with Backend() as backend:
        nodes.write_text(f"69=2000,{backend.address}\n")
        with GatewayProcess(nodes) as gateway:
            gateway.predict("textcnn-69")
            admin = f"127.0.0.1:{gateway.admin_port}"
            eventually(lambda: status_command("--admin", admin).returncode == 0, "all is well", 20.0)
