"""Simulated time: events in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Loop:
    """Runs events by time, equal times in the order they were set. `now_s` starts at 0."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def clock(self) -> float:
        return self.now_s

    def at(self, when_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Calls the action then, or now if that is past."""
        self._number += 1
        heapq.heappush(self._events, (when_s, self._number, action, arguments))

    def run(self, until_s: float) -> None:
        events = self._events
        while events and events[0][0] <= until_s:
            when_s, _, action, arguments = heapq.heappop(events)
            if when_s > self.now_s:
                self.now_s = when_s
            action(*arguments)
        self.now_s = max(self.now_s, until_s)
