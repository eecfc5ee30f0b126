"""What the control plane asks of Envoy, through its admin socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from services.gateway.names import LISTENER
from services.gateway.process_http import AdminReply, parse, request

_ADMIN_TIMEOUT_S = 5.0


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
                writer.write(request(method, target))
                await writer.drain()
                raw = await reader.read(-1)
            finally:
                writer.close()
        return parse(raw)

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
