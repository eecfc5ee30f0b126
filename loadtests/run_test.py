"""The command against a real gRPC server, in processes of its own, as gevent patches a whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.echo import echo_server

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
        "--users", "1", "--seconds", "2", "--timeout", "1", "--out", str(tmp_path / "r.json"),
    )  # fmt: skip
    assert done.returncode == 2
    assert "nothing answers at 127.0.0.1:1" in done.stderr


def test_load_from_two_processes(tmp_path: Path, models: Path, echo: str) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *filter(None, sys.path)])}
    traffic = [
        "--gateway",
        echo,
        "--models",
        str(models),
        "--scenario",
        "torch-mmoe",
        "--users",
        "4",
        "--rate",
        "80",
    ]
    port = "127.0.0.1:5597"
    out = tmp_path / "results.json"
    workers = [
        subprocess.Popen([sys.executable, "-m", "loadtests", "work", "--master", port, *traffic], env=env)
        for _ in range(2)
    ]
    try:
        done = loadtests(
            "run",
            *traffic,
            "--workers",
            "2",
            "--listen",
            port,
            "--seconds",
            "6",
            "--warm-up",
            "0",
            "--out",
            str(out),
        )
        assert done.returncode == 0, done.stderr
        for worker in workers:
            assert worker.wait(TIMEOUT_S) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(TIMEOUT_S)
    (phase,) = json.loads(out.read_text())["phases"]
    calls = sum(sum(second["times"].values()) for second in phase["series"].values())
    assert calls > 150  # 6 s of 80 calls a second, but for the start of both


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--gateway", "nowhere"), "no host:port"),
        (("run", "--gateway", "127.0.0.1:1", "--mix", "absent.toml"), "absent.toml"),
        (("check", "absent.json", "--budgets", "absent.toml"), "absent.toml"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], says: str) -> None:
    done = loadtests(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
