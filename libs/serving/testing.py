"""Helpers of the tests: server processes with an end, and a raw client."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from libs.serving.testing_app import CONFIG_VARIABLE

MAX_MESSAGE_BYTES = 6 << 20
START_S = 60.0
STOP_S = 30.0

_PYVOY = """
import json, sys
from libs.serving.server import run_server
sys.exit(run_server(**json.loads(sys.argv[1])))
"""

_AIO = """
import asyncio, json, signal, sys
from libs.serving.aio import serve_aio
from libs.serving.testing_app import HANDLERS, metrics

async def main():
    server = await serve_aio(HANDLERS, "127.0.0.1:0", metrics=metrics, **json.loads(sys.argv[1]))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"READY 127.0.0.1:{server.port}", flush=True)
    await stop.wait()
    await server.stop(5)

asyncio.run(main())
"""


def python_path() -> str:
    """PYTHONPATH of a process that imports what this one can."""
    return os.pathsep.join([".", *filter(None, sys.path)])


class ServerProcess:
    """A server in a process of its own, its output collected as it comes."""

    def __init__(self, script: str, arguments: dict[str, Any], env: dict[str, str]) -> None:
        # A server that is killed leaves its temporary directory behind.
        self._directory = tempfile.TemporaryDirectory(prefix="test-")
        env = {"TMPDIR": self._directory.name, **env}
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, json.dumps(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": python_path(), **env},
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._stderr: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read_stdout, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._read_stderr, args=(self.process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.address = ""

    def _read_stdout(self, stream: Any) -> None:
        for line in stream:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _read_stderr(self, stream: Any) -> None:
        self._stderr.extend(stream)

    @property
    def stderr(self) -> str:
        """What came on standard error so far."""
        return "".join(self._stderr)

    def wait_ready(self) -> str:
        """Waits for the READY line; answers its address."""
        line = self._lines.get(timeout=START_S)
        if line is None or not line.startswith("READY "):
            raise AssertionError(f"expected READY, got {line!r}; standard error:\n{self.stderr}")
        self.address = line.removeprefix("READY ")
        return self.address

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Waits for the end; answers the exit status."""
        status = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join(timeout_s)
        return status

    def stop(self) -> int:
        """SIGTERM, then the end."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        """Ends it, however it is doing."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        self._directory.cleanup()

    def envoy_pids(self) -> list[int]:
        """Its child processes."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
            return [int(pid) for pid in file.read().split()]


@contextlib.contextmanager
def pyvoy_server(
    config: dict[str, Any] | None = None,
    *,
    ready: bool = True,
    env: dict[str, str] | None = None,
    app: str = "libs.serving.testing_app:app",
    **arguments: Any,
) -> Iterator[ServerProcess]:
    """The test application under `run_server`; `config` goes to the application, `arguments` to
    `run_server`."""
    defaults = {"app": app, "host": "127.0.0.1", "port": 0, "drain_grace_s": 0.2, "drain_deadline_s": 10}
    arguments = {**defaults, **arguments}
    server = ServerProcess(_PYVOY, arguments, {CONFIG_VARIABLE: json.dumps(config or {}), **(env or {})})
    try:
        if ready:
            server.wait_ready()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def aio_server(max_message_bytes: int) -> Iterator[ServerProcess]:
    """The test application's handlers on grpc.aio."""
    server = ServerProcess(_AIO, {"max_message_bytes": max_message_bytes}, {})
    try:
        server.wait_ready()
        yield server
    finally:
        server.close()


def eventually(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Waits until a condition holds; answers its value.

    Raises:
        AssertionError: it did not hold in time.
    """
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"did not come true within {timeout_s} s")
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
