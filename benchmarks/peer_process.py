"""Running a peer's server: started in a folder of its own, ready once it answers, and gone with all its children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import load

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0


class NotRunError(RuntimeError):
    """A peer that cannot be measured on this machine; the message says why, in a line."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, what it adds to the environment, and the folder that it runs in."""

    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def serving(launch: Launch, ready: Callable[[], object]) -> Iterator[int]:
    """Runs a server until the block ends; yields its process id once `ready` no longer raises. Raises NotRunError."""
    log = launch.folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            launch.command,
            cwd=launch.folder,
            env={**_environment(), **launch.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, ready, log)
        yield process.pid
    finally:
        _stop(process)


def _environment() -> dict[str, str]:
    """The environment without what this program's own Python was started with."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PEX", "__PEX", "PYTHONPATH", "VIRTUAL_ENV"))
    }


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            ready()
            return
        except Exception as error:
            # Whatever is wrong may come right while the server starts: refused, not found, not loaded yet.
            if process.poll() is not None:
                raise NotRunError(f"ended with status {process.returncode}: {_tail(log)}") from None
            if time.monotonic() > deadline:
                text = str(error).splitlines()
                raise NotRunError(
                    f"no right answer in {START_TIMEOUT_S:.0f} s: {text[0] if text else error!r}"
                ) from None
            time.sleep(0.2)


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the server to stop, then kills what is left of it and of its children, also those in other groups."""
    members = {pid: _started(pid) for pid in load.process_tree(process.pid)} if process.poll() is None else {}
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    for pid, started in members.items():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if started and _started(pid) == started:  # not another process that got its number
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_TIMEOUT_S)


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""
