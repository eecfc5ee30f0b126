"""Model instances as processes that can be killed, frozen, slowed, made to fail, and cut off from the network."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from benchmarks.servers import free_port

_SCRIPT = Path(__file__).parent / "peers" / "instance.py"
_START_TIMEOUT_S = 20.0


class Instance:
    """One run after the other of peers/instance.py at one address."""

    def __init__(self, host: str = "127.0.0.1", *, health: bool = True, namespace: str = "") -> None:
        self.host, self.port = host, free_port()
        self._command = [sys.executable, str(_SCRIPT), host, str(self.port)]
        if not health:
            self._command.append("--no-health")
        if namespace:
            self._command = ["ip", "netns", "exec", namespace, *self._command]
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> None:
        """Starts it; returns when it takes calls. Raises RuntimeError."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _START_TIMEOUT_S)
        if not ready or not self._process.stdout.readline().startswith("READY"):
            self.kill()
            raise RuntimeError(f"the instance at {self.address} did not start")

    def tell(self, line: str) -> None:
        """A command of peers/instance.py, as `delay 0.2`."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
            self._process = None

    def drain(self, timeout_s: float = 15.0) -> None:
        """Ends it as an orchestrator does: it refuses new calls and finishes those that it has."""
        self.process.terminate()
        self.process.wait(timeout_s)
        self.kill()


class Link:
    """A machine of its own at the end of a cable: a network namespace and a veth pair. Needs root and iproute2."""

    def __init__(self, name: str, near: str, far: str) -> None:
        self.name, self.near, self.far = name, near, far

    def cut(self) -> None:
        """From now on every packet is lost, silently, both ways: the far address is nobody's."""
        _ip("-n", self.name, "addr", "del", f"{self.far}/30", "dev", "eth0")

    def mend(self) -> None:
        _ip("-n", self.name, "addr", "add", f"{self.far}/30", "dev", "eth0")


def can_link() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextlib.contextmanager
def link() -> Iterator[Link]:
    """A namespace behind a veth pair until the block ends. Raises CalledProcessError where that is not allowed."""
    name = f"dl-{uuid.uuid4().hex[:8]}"
    # 192.0.2.0/24, 198.51.100.0/24 and 203.0.113.0/24 are for documentation (RFC 5737): no real host is hidden.
    block = 4 * (os.getpid() % 63)
    cable = Link(name, f"198.51.100.{block + 1}", f"198.51.100.{block + 2}")
    _ip("netns", "add", name)
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{cable.near}/30", "dev", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth0", "up")
        cable.mend()
        # Without address resolution, which would notice a lost peer and tell the sender.
        here, there = _mac(name), _mac("eth0", name)
        _ip("neigh", "replace", cable.far, "lladdr", there, "dev", name, "nud", "permanent")
        _ip("-n", name, "neigh", "replace", cable.near, "lladdr", here, "dev", "eth0", "nud", "permanent")
        yield cable
    finally:
        _ip("netns", "del", name)  # the veth pair goes with it


def _mac(device: str, namespace: str = "") -> str:
    flags = ("-n", namespace) if namespace else ()
    words = _ip(*flags, "-o", "link", "show", device).split()
    return words[words.index("link/ether") + 1]


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10).stdout
