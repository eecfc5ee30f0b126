"""Tells when all calls that had begun by some moment have ended: only then may what they use be freed.

Calls are counted by epoch. To free something, give it to no more calls, end the epoch, and wait until it and those
before it are empty: the calls of later epochs cannot have found it. So no call has to say what it uses.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_POLL_S = 0.02


class Epoch:
    """Calls that began between two ends.

    Attributes:
        calls: how many have not ended.
    """

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


class Grace:
    """The epochs of a server. Used on the event loop's thread.

    Attributes:
        epoch: the present one. A call adds itself to its `calls` before it looks for what it needs, and takes itself
            away from the same one's when it ends.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.epoch = Epoch()
        self._ended: list[Epoch] = []
        self._clock = clock

    async def passed(self, timeout_s: float) -> int:
        """Wait until all calls that have begun before have ended; answers how many have not after so long."""
        self._ended = [epoch for epoch in self._ended if epoch.calls]
        if self.epoch.calls:
            self._ended.append(self.epoch)
            self.epoch = Epoch()
        before = list(self._ended)
        end = self._clock() + timeout_s
        while (left := sum(epoch.calls for epoch in before)) and self._clock() < end:
            await asyncio.sleep(_POLL_S)
        return left
