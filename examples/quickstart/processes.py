"""Starting and stopping the system's processes from their PEXes; used by the quickstart, e2e tests and benchmarks."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

READY = "READY "
START_TIMEOUT_S = 120.0
# The workers finish calls in flight for 30 s at most before they stop by themselves.
STOP_TIMEOUT_S = 35.0


class StartError(RuntimeError):
    """A process ended, or said nothing, before it was ready. The message holds the end of its log."""


@dataclass
class Process:
    """One running service. `address` is the host:port that its READY line named."""

    name: str
    popen: subprocess.Popen[str]
    log: Path
    address: str = ""

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """Waits for the READY line and returns the address in it."""
        stdout = self.popen.stdout
        assert stdout is not None
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            readable = select.select([stdout], [], [], max(0.0, left))[0]
            line = stdout.readline() if readable else ""
            if line.startswith(READY):
                self.address = line.removeprefix(READY).strip()
                return self.address
            if not line:
                why = "was not ready in time" if left <= 0 else f"ended with status {self.popen.wait(5)}"
                raise StartError(f"{self.name} {why}; the end of {self.log}:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def terminate(self) -> None:
        """Asks the process to drain and stop."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process at once, as a crash would. Its Envoy child goes with it."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(STOP_TIMEOUT_S)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Drains, waits, and kills what did not stop in time; returns the exit status."""
        self.terminate()
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.popen.returncode
        finally:
            if self.popen.stdout is not None:
                self.popen.stdout.close()


@dataclass
class Processes:
    """A group of processes that live and end together; use as a context manager."""

    pexes: Path
    logs: Path
    running: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, pex: str, *arguments: str, inside: Sequence[str] = ()) -> Process:
        """Starts `pex` (a name under the folder of PEXes, without suffix) and returns without waiting.

        `inside` is a command that runs another in some place, and becomes it: `ip netns exec NAME`.
        """
        path = self.pexes / f"{pex}.pex"
        if not path.exists():
            raise StartError(f"{path} is not there; build it: ./pants package ::")
        return self.run(name, *inside, sys.executable, str(path), *arguments)

    def run(self, name: str, *command: str) -> Process:
        """Starts a command that says READY and its address as our services do, and returns without waiting."""
        log = self.logs / f"{name}.log"
        # A session of its own: Ctrl-C in the terminal reaches only us, and we stop the group in order.
        with log.open("w") as stderr:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                bufsize=1,
                start_new_session=True,
                env=_environment(),
            )
        process = Process(name, popen, log)
        self.running.append(process)
        return process

    def stop(self) -> None:
        """Stops all, the youngest first: the gateway drains before its backends go. Interrupted, it kills them."""
        stopping: Sequence[Process] = list(reversed(self.running))
        try:
            for process in stopping[:1]:
                process.stop()
            for process in stopping[1:]:
                process.terminate()
            for process in stopping[1:]:
                process.stop()
        finally:
            for process in stopping:
                process.kill()  # does nothing to what has ended
            self.running.clear()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _environment() -> dict[str, str]:
    """The environment without what this PEX or Python was started with: the services bring their own."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PEX", "__PEX", "PYTHONPATH"))
    }
