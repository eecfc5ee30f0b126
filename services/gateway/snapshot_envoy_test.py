"""What a gateway.toml says of tasks and pools holds in the real Envoy."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.gateway.testing import (
    ROOT,
    Answer,
    Backend,
    BackendProcess,
    GatewayProcess,
    Load,
    Seen,
    backends,
    environment,
    eventually,
    free_port,
    predict_request,
)

pytestmark = pytest.mark.timeout(60)


@contextlib.contextmanager
def gateway(folder: Path, text: str) -> Iterator[GatewayProcess]:
    config = folder / "gateway.toml"
    config.write_text(text)
    with GatewayProcess(config) as running:
        yield running


def listed(*servers: Backend | BackendProcess) -> str:
    return "[" + ", ".join(f'"{server.address}"' for server in servers) + "]"


def spread(running: GatewayProcess, task: int, count: int) -> Counter[str]:
    """How many of some calls each instance answered. Raises AssertionError when one fails."""
    answers = [running.predict(f"a-{task}") for _ in range(count)]
    assert {a.code for a in answers} == {grpc.StatusCode.OK}, [a for a in answers if a.code.value[0]][:3]
    return Counter(a.metadata["x-dl-instance"] for a in answers)


def at_once(running: GatewayProcess, task: int, count: int) -> list[Answer]:
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(running.predict(f"a-{task}"))) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return answers


def test_shares_copies_policies_and_weights(tmp_path: Path) -> None:
    with backends(6) as (one, two, three, canary, shadow, dark):
        dark.status = grpc.StatusCode.INTERNAL
        text = f"""
[defaults]
timeout_ms = 5000
[pools.main]
endpoints = {listed(one)}
[tasks.1]
pool = "main"
canary = {{ endpoints = {listed(canary)}, percent = 20 }}
[tasks.2]
pool = "main"
shadow = {{ endpoints = {listed(shadow)}, percent = 50 }}
[tasks.3]
pool = "main"
shadow = {{ endpoints = {listed(dark)}, percent = 100 }}
[tasks.4]
policy = "round_robin"
endpoints = {listed(one, two, three)}
[tasks.5]
policy = "round_robin"
endpoints = ["{one.address}", {{ address = "{two.address}", weight = 300 }}]
[tasks.6]
policy = "weighted"
endpoints = ["{one.address}", {{ address = "{two.address}", weight = 50 }}]
[tasks.7]
policy = "peak_ewma"
endpoints = {listed(one, two, three)}
[tasks.8]
pool = "main"
shadow = {{ endpoints = ["127.0.0.1:{free_port()}"], percent = 100 }}
"""
        with gateway(tmp_path, text) as running:
            # Five standard deviations of a binomial share at 0.2 and 800 draws are 57.
            assert 100 <= spread(running, 1, 800)[canary.address] <= 220
            assert spread(running, 2, 300) == {one.address: 300}
            assert spread(running, 3, 50) == {one.address: 50}  # whatever becomes of the copies
            assert spread(running, 8, 50) == {one.address: 50}
            eventually(lambda: len(dark.calls) == 50, "every call was copied")
            assert 100 <= len(shadow.calls) <= 200
            assert dark.calls[0].body == predict_request("a-3")
            counts = spread(running, 4, 90)
            assert all(28 <= counts[server.address] <= 32 for server in (one, two, three)), counts
            counts = spread(running, 5, 80)
            assert 58 <= counts[two.address] <= 62, counts
            assert set(spread(running, 7, 60)) == {one.address, two.address, three.address}


def test_a_fallback_takes_over_and_gives_back(tmp_path: Path) -> None:
    with backends(1) as (spare,), contextlib.ExitStack() as stack:
        first = [stack.enter_context(BackendProcess()) for _ in range(2)]
        text = f"[tasks.1]\ntimeout_ms = 5000\nendpoints = {listed(*first)}\nfallback = {listed(spare)}\n"
        with gateway(tmp_path, text) as running:
            assert spare.address not in spread(running, 1, 50)
            with Load(lambda: running.predict("a-1"), threads=2) as load:
                for server in first:
                    server.kill()
                eventually(
                    lambda: {a.metadata.get("x-dl-instance") for a in load.answers[-50:]} == {spare.address},
                    "taken over",
                )
            assert load.failures() == []  # what the dead did not answer was asked of the fallback
            for server in first:
                stack.enter_context(BackendProcess(port=server.port))
            eventually(
                lambda: spare.address
                not in {running.predict("a-1").metadata["x-dl-instance"] for _ in range(10)},
                "given back",
                20,
            )
            assert spare.address not in spread(running, 1, 50)


def test_limits_refuse_what_is_too_much(tmp_path: Path) -> None:
    with backends(1) as (server,):
        text = f"[tasks.1]\ntimeout_ms = 10000\nendpoints = {listed(server)}\nmax_in_flight = 3\n"
        with gateway(tmp_path, text) as running:
            assert spread(running, 1, 10).total() == 10
            server.delay_s = 1.0
            codes = Counter(answer.code for answer in at_once(running, 1, 12))
            assert codes == {grpc.StatusCode.OK: 3, grpc.StatusCode.RESOURCE_EXHAUSTED: 9}
            server.delay_s = 0.0
            assert spread(running, 1, 10).total() == 10


def test_retries_are_as_many_as_the_task_says(tmp_path: Path) -> None:
    with backends(1) as (good,), contextlib.ExitStack() as stack:
        bad = [stack.enter_context(Backend()) for _ in range(3)]
        for server in bad:
            server.status = grpc.StatusCode.UNAVAILABLE
        tasks = "".join(
            f"[tasks.{1 + n}]\ntimeout_ms = 5000\nretries = {n}\nendpoints = {listed(*bad)}\n"
            for n in (0, 1, 2)
        )
        text = tasks + f"[tasks.9]\nendpoints = {listed(good)}\nretries = 0\n"
        with gateway(tmp_path, text) as running:
            for task in (1, 2, 3):
                before = sum(len(server.calls) for server in bad)
                assert running.predict(f"a-{task}").code == grpc.StatusCode.UNAVAILABLE
                assert sum(len(server.calls) for server in bad) - before == task
            assert spread(running, 9, 5).total() == 5


class Flaky(Backend):
    """Fails every second call, so never twice in a row."""

    def answer(self, method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        if len(self.calls) % 2:
            self.calls.append(Seen(method, {}, None, body))
            context.abort(grpc.StatusCode.INTERNAL, "as told")
        return super().answer(method, body, context)


def test_an_instance_that_fails_half_of_its_calls_is_ejected(tmp_path: Path) -> None:
    with Backend() as good, Flaky() as flaky:
        text = f"[tasks.1]\ntimeout_ms = 5000\npolicy = 'round_robin'\nendpoints = {listed(good, flaky)}\n"

        def ejected() -> list[str]:
            instances = running.status()["tasks"]["1"]["instances"]
            return [i["address"] for i in instances if "ejected" in i["health"]]

        with gateway(tmp_path, text) as running, Load(lambda: running.predict("a-1"), threads=2):
            eventually(lambda: ejected() == [flaky.address], "ejected", 20)


def test_explain_tells_what_the_running_gateway_does(tmp_path: Path) -> None:
    with backends(2) as (one, two):
        text = f"""
[tasks.69]
timeout_ms = 5000
endpoints = {listed(one)}
canary = {{ endpoints = {listed(two)}, percent = 10 }}
"""
        with gateway(tmp_path, text) as running:
            admin = f"127.0.0.1:{running.admin_port}"
            command = [sys.executable, "-m", "services.gateway", "explain", "--config", str(running.nodes)]

            def explained() -> str:
                running.predict("textcnn-69")
                return subprocess.run(
                    [*command, "--model", "textcnn-69", "--method", "Predict", "--admin", admin],
                    cwd=ROOT,
                    env=environment(),
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=20,
                ).stdout

            eventually(lambda: "100.0 % of the calls now" in explained(), "calls are seen", 20)
            found = explained()
            assert (
                "textcnn-69 is task 69: the digits after the last '-' of the message's model_spec.name"
                in found
            )
            assert "90 % to task-69; 10 % to task-69-canary" in found
            assert re.search(rf"{re.escape(one.address)} +weight \d+ .*healthy", found), found


def test_checks_find_out_who_is_frozen_and_who_says_no(tmp_path: Path) -> None:
    servicer = health.HealthServicer()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        with BackendProcess() as one, BackendProcess() as two:
            text = f"""
[tasks.1]
timeout_ms = 5000
endpoints = {listed(one, two)}
fallback = {listed(one)}
[tasks.2]
endpoints = {listed(one, two)}
fallback = {listed(one)}
health_check = "tcp"
[tasks.3]
endpoints = ["127.0.0.1:{port}"]
fallback = {listed(one)}
health_check = "grpc"
[tasks.4]
endpoints = {listed(one)}
health_check = "grpc"
[tasks.5]
endpoints = ["127.0.0.1:{free_port()}"]
health_check = "none"
"""
            with gateway(tmp_path, text) as running:
                # Without a health service http2 is content, grpc is not. With a fallback checks come every second.
                eventually(lambda: healthy(running) == [3, 3, 1, 0, 1], "all but what cannot be asked", 20)
                two.signal(signal.SIGSTOP)
                servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
                # The kernel goes on accepting connections for a frozen process.
                eventually(lambda: healthy(running) == [2, 3, 0, 0, 1], "frozen, and NOT_SERVING", 40)
                assert set(spread(running, 1, 20)) == {one.address}
                two.signal(signal.SIGCONT)
                servicer.set("", health_pb2.HealthCheckResponse.SERVING)
                eventually(lambda: healthy(running) == [3, 3, 1, 0, 1], "well again", 20)
    finally:
        server.stop(None)


def healthy(running: GatewayProcess) -> list[int]:
    """The healthy instances of each task."""
    tasks = running.status()["tasks"]
    return [sum(i["health"] == "healthy" for i in tasks[task]["instances"]) for task in sorted(tasks)]
