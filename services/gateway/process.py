"""What the control plane asks of Envoy, through its admin socket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from services.gateway.names import LISTENER

_ADMIN_TIMEOUT_S = 5.0


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

    async def memberships(self) -> dict[str, int]:
        """The instances of every cluster that are well and not ejected. Raises OSError."""
        prefix, suffix = "cluster.", ".membership_healthy"
        document = await self.json("/stats?format=json&filter=membership_healthy$")
        return {
            stat["name"].removeprefix(prefix).removesuffix(suffix): int(stat["value"])
            for stat in document.get("stats", [])
            if stat.get("name", "").endswith(suffix)
        }


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
