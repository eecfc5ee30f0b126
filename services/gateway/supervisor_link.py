"""What the supervisor and the control plane say to each other: small JSON messages on a socket pair.

The control plane says `alive_s`: expect the next word within so many seconds, else it hangs. Once it is able to answer
Envoy it says `started`. The supervisor says how Envoy does, and passes on the operator's wish to reload. The end of the
supervisor's side is the order to go.
"""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import asdict, dataclass
from typing import Any

Json = dict[str, Any]

_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class EnvoyState:
    """What the control plane is told about Envoy and the whole gateway."""

    pid: int | None = None  # None: it does not run now
    restarts: int = 0
    live: bool = False  # it has the table and takes traffic
    draining: bool = False
    control_restarts: int = 0


class Link:
    """One side. Nothing blocks: what the other side does not take is dropped, and `receive` returns what is there."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    @staticmethod
    def pair() -> tuple[Link, Link]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Link(one), Link(other)

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()

    def send(self, message: Json) -> None:
        with contextlib.suppress(OSError):  # full, or the other side is gone: both show elsewhere
            self._end.send(json.dumps(message).encode())

    def send_state(self, state: EnvoyState) -> None:
        self.send({"envoy": asdict(state)})

    def receive(self) -> list[Json] | None:
        """The messages that have come; None once the other side is gone."""
        found: list[Json] = []
        while True:
            try:
                data = self._end.recv(_MAX_BYTES)
            except BlockingIOError:
                return found
            except OSError:
                return None
            if not data:
                return found or None
            found.append(json.loads(data))
