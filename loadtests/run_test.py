"""The command against a real gRPC server, in processes of its own, as gevent patches a whole process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.echo import echo_server
from loadtests.results import Phase, Results

TIMEOUT_S = 60.0


def loadtests(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *filter(None, sys.path)])}
    return subprocess.run(
        [sys.executable, "-m", "loadtests", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=env,
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "mmoe").mkdir()
    (folder / "mmoe" / "expected.json").write_text(json.dumps({"features": [[0.5] * 138]}))
    return folder


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with echo_server() as address:
        yield address


def test_a_run_is_measured_kept_and_checked(tmp_path: Path, models: Path, echo: str) -> None:
    out, html = tmp_path / "results.json", tmp_path / "report.html"
    common = ("--gateway", echo, "--models", str(models), "--scenario", "torch-mmoe", "--out", str(out))
    done = loadtests("run", *common, "--users", "2", "--seconds", "3", "--warm-up", "0", "--rate", "50")
    assert done.returncode == 0, done.stderr
    assert "torch-mmoe" in done.stdout
    data = json.loads(out.read_text())
    phase = next(phase for phase in data["phases"] if phase["target"] == "gateway")
    calls = sum(sum(second["times"].values()) for second in phase["series"].values())
    assert 75 <= calls <= 160  # 3 s of 50 calls a second, the last of which may be missing
    assert any(entry["name"] == "torch-mmoe" for entry in data["locust"])

    budgets = tmp_path / "budgets.toml"
    budgets.write_text('[mine.torch-mmoe]\np99 = "5 s"\nerrors = "0 %"\n')
    kept = loadtests("check", str(out), "--budgets", str(budgets), "--set", "mine", "--html", str(html))
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert "2 of 2 budgets kept" in kept.stdout
    assert "<svg" in html.read_text()
    assert "http://" not in html.read_text()
    budgets.write_text('[mine.torch-mmoe]\np50 = "1 us"\n')
    broken = loadtests("check", str(out), "--budgets", str(budgets), "--set", "mine")
    assert broken.returncode == 1
    assert "BROKEN" in broken.stdout


def test_failures_are_named_by_their_status(tmp_path: Path, models: Path, echo: str) -> None:
    # What an echo answers to this request is no answer of the protocol's.
    done = loadtests(
        "run", "--gateway", echo, "--models", str(models), "--scenario", "v2-mmoe", "--no-ceiling",
        "--users", "1", "--seconds", "2", "--warm-up", "0", "--out", str(tmp_path / "r.json"),
    )  # fmt: skip
    assert "BAD_ANSWER" in done.stdout


def test_nobody_there(tmp_path: Path, models: Path) -> None:
    done = loadtests(
        "run", "--gateway", "127.0.0.1:1", "--models", str(models), "--scenario", "torch-mmoe", "--no-ceiling",
        "--users", "1", "--seconds", "2", "--warm-up", "0", "--timeout", "1", "--out", str(tmp_path / "r.json"),
    )  # fmt: skip
    assert done.returncode == 2
    assert "nothing answers at 127.0.0.1:1" in done.stderr


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_load_from_two_processes_that_waited_longer_than_the_run_takes(
    tmp_path: Path, models: Path, echo: str
) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *filter(None, sys.path)])}
    traffic = ["--gateway", echo, "--models", str(models), "--scenario", "torch-mmoe", "--users", "4"]
    traffic += ["--rate", "80"]
    at = f"127.0.0.1:{free_port()}"
    out = tmp_path / "results.json"
    work = [sys.executable, "-m", "loadtests", "work", "--master", at, *traffic]
    workers = [subprocess.Popen(work, env=env) for _ in range(2)]
    try:
        time.sleep(6.0)  # this wait is what is tested: seconds count from when the run begins
        to = ("--workers", "2", "--listen", at, "--seconds", "4", "--warm-up", "0", "--out", str(out))
        done = loadtests("run", *traffic, *to)
        assert done.returncode == 0, done.stderr
        for worker in workers:
            assert worker.wait(TIMEOUT_S / 2) == 0  # by itself, when the run is over
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(TIMEOUT_S)
    (phase,) = json.loads(out.read_text())["phases"]
    calls = [sum(second["times"].values()) for second in phase["series"].values()]
    assert len(calls) == 4
    # 4 s of 80 calls a second; the first second has the start in it. The last were reported, too.
    assert 240 <= sum(calls) <= 340
    assert calls[-1] >= 60


@contextlib.contextmanager
def stalling(after_s: float, for_s: float) -> Iterator[str]:
    """A server that answers, then for a while does not, and then answers all of it."""
    program = f"""
import asyncio, grpc, time
begun = None
async def answer(request, context):
    global begun
    begun = begun or time.monotonic()
    at = time.monotonic() - begun
    if {after_s} <= at < {after_s + for_s}:
        await asyncio.sleep({after_s + for_s} - at)
    return request
class Any(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(answer)
async def serve():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Any(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()
asyncio.run(serve())
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *filter(None, sys.path)])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env
    ) as server:
        try:
            assert server.stdout is not None
            yield f"127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


def stalled(tmp_path: Path, models: Path, after_s: float, for_s: float, *arguments: str) -> Phase:
    out = tmp_path / "r.json"
    common = ("--models", str(models), "--scenario", "torch-mmoe", "--no-ceiling", "--warm-up", "0")
    with stalling(after_s, for_s) as address:
        done = loadtests("run", "--gateway", address, *common, "--users", "2", "--out", str(out), *arguments)
    assert done.returncode == 0, done.stderr
    (phase,) = Results.read(out).phases
    return phase


def test_calls_that_still_wait_when_a_run_is_over_count(tmp_path: Path, models: Path) -> None:
    found = stalled(tmp_path, models, 2.0, 3.5, "--seconds", "4", "--rate", "20")
    calls = [second.times.total for second in found.series.seconds.values()]
    assert sum(calls) >= 70  # all 4 s of 20 a second, and not those alone that were answered in time
    assert found.metrics["p95"] > 1500


def test_seconds_in_which_nothing_was_answered_count(tmp_path: Path, models: Path) -> None:
    found = stalled(tmp_path, models, 1.0, 3.0, "--seconds", "6")
    calls = [second.times.total for second in found.series.seconds.values()]
    assert found.seconds == len(calls) == 6
    assert calls.count(0) >= 1
    assert found.metrics["qps"] == sum(calls) / 6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--gateway", "nowhere"), "no host:port"),
        (("run", "--gateway", "127.0.0.1:1", "--mix", "absent.toml"), "absent.toml"),
        (("run", "--gateway", "127.0.0.1:1", "--seconds", "2"), "nothing would be kept of 2 s"),
        (("check", "absent.json", "--budgets", "absent.toml"), "absent.toml"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], says: str) -> None:
    done = loadtests(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
