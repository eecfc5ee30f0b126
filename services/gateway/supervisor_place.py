"""What the supervisor gives a control plane, and how soon the next one gets it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.gateway.control_keepsake import Keepsake
from services.gateway.supervisor_link import Link

CRASH_WINDOW_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class StartError(Exception):
    """The gateway cannot start, and the message says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a control plane is given, and the next one after it."""

    folder: Path
    listen_port: int
    admin: socket.socket  # listens
    xds_port: int  # 0: not served
    link: Link
    keepsake: Keepsake


class Backoff:
    """How long to wait before the next start: longer with every end within the window."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: list[float] = []

    def ended(self) -> float:
        """Takes note; the pause in seconds."""
        now = self._clock()
        self._ends = [t for t in self._ends if now - t < CRASH_WINDOW_S] + [now]
        return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (len(self._ends) - 1))

    @property
    def ends(self) -> int:
        """Within the window, up to the last one."""
        return len(self._ends)
