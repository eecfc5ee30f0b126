from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.images import init

WAIT_S = 30.0


def _default_signals() -> None:
    """Whoever started the tests may ignore some (nohup, a shell's background); no shell can trap those."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    """`init.py COMMAND` as an image starts it."""
    process = subprocess.Popen(
        [sys.executable, "-IS", init.__file__, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_default_signals,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=WAIT_S)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("status", [0, 3, 255])
def test_ends_with_the_programs_status(status: int) -> None:
    with started("sh", "-c", f"exit {status}") as process:
        assert process.wait(WAIT_S) == status


def test_a_program_ended_by_a_signal_is_told_as_a_shell_tells_it() -> None:
    with started("sh", "-c", "kill -KILL $$") as process:
        assert process.wait(WAIT_S) == 128 + signal.SIGKILL


def test_a_program_that_is_not_there() -> None:
    with started("/no/such/program") as process:
        _, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 127
        assert "/no/such/program" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_program(number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    with started(
        "sh", "-c", f"trap 'echo got; exit 7' {name}; echo ready; while :; do sleep 0.05; done"
    ) as process:
        assert line(process) == "ready"
        process.send_signal(number)
        assert line(process) == "got"
        assert process.wait(WAIT_S) == 7


def test_signals_that_the_program_does_not_handle_have_their_default_effect() -> None:
    with started("sh", "-c", "echo ready; exec sleep 60") as process:
        assert line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 128 + signal.SIGTERM


def test_orphans_are_collected() -> None:
    orphan = "(sleep 0.1 & echo $!)"  # its parent, the subshell, ends at once
    with started("sh", "-c", f"{orphan}; exec sleep 60") as process:
        entry = Path(f"/proc/{line(process)}")
        end = time.monotonic() + WAIT_S
        while entry.exists():
            assert time.monotonic() < end, "the orphan is still there, as a zombie"
            time.sleep(0.02)
        assert process.poll() is None
