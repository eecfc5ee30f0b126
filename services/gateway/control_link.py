"""The control plane's side of the link to its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from services.gateway.supervisor_link import EnvoyState, Link

# The event loop answers this often; when it has not for so long, it hangs.
_BEAT_S, _HANG_S = 1.0, 10.0
_BUSY_S = 120.0  # a large table is parsed and built in one go


class Supervised:
    """Tells the supervisor that all is well, and hears how Envoy does."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def follow(
        self,
        on_state: Callable[[EnvoyState], None],
        on_reload: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """Calls back from the running event loop."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            messages = self._link.receive()
            if messages is None:
                loop.remove_reader(self._link.fileno())
                on_end()
                return
            for message in messages:
                if "envoy" in message:
                    on_state(EnvoyState(**message["envoy"]))
                if message.get("reload"):
                    on_reload()

        loop.add_reader(self._link.fileno(), look)

    async def beat(self) -> None:
        """For ever: says that the event loop turns."""
        while True:
            self._link.send({"alive_s": _HANG_S})
            await asyncio.sleep(_BEAT_S)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Around work that may keep the event loop for longer."""
        self._link.send({"alive_s": _BUSY_S})
        try:
            yield
        finally:
            self._link.send({"alive_s": _HANG_S})

    def started(self) -> None:
        """Envoy may come."""
        self._link.send({"alive_s": _HANG_S, "started": True})
