"""How quick a model's calls are: whether one may run on the event loop's own thread instead of a model thread.

Handing a call to a model thread and its answer back costs two thread switches, some 50 us; half_plus_two takes 5.
The price of running it in place is that the loop stands still meanwhile, so that is done only for models that were
seen to be quick, over and over, and for requests no larger than those seen.
"""

from __future__ import annotations

TINY_S = 50e-6
"""A call this short costs less than the hand-over: it runs in place however many others there are."""
QUICK_S = 1e-3
"""A call this short runs in place when it is the only one: it gains its hand-over, and holds up a newcomer for no
longer than a batch before it would."""

_FULL = 32
_ENOUGH = 24
_SLOW_COSTS = 4
"""Scores rise by 1 a quick call up to _FULL and fall by this a slow one; at _ENOUGH the model counts as quick. So it
takes 24 calls to begin with, and more than one slow call in five to end it."""

_FAR_TOO_LONG_S = 0.05
_BAN_S = 10.0


class Pace:
    """What was seen of one callable. Scores saturate, so observations from several threads at once, of which one may
    be lost, do no lasting harm."""

    __slots__ = ("_banned_until", "_largest", "_quick", "_tiny")

    def __init__(self) -> None:
        self._tiny = 0
        self._quick = 0
        self._largest = -1
        self._banned_until = float("-inf")

    def observe(self, seconds: float, size: int, now: float) -> None:
        """A call on inputs of so many bytes took so many seconds and has ended now."""
        self._tiny = _score(self._tiny, seconds <= TINY_S)
        self._quick = _score(self._quick, seconds <= QUICK_S)
        if seconds <= QUICK_S:
            self._largest = max(self._largest, size)
        elif size <= self._largest:
            self._largest = size - 1
        if seconds > _FAR_TOO_LONG_S:
            self._banned_until = now + _BAN_S

    def in_place(self, size: int, now: float, *, alone: bool) -> bool:
        """Whether a call on inputs of so many bytes should run on the thread that it is on."""
        score = self._quick if alone else self._tiny
        return score >= _ENOUGH and size <= self._largest and now >= self._banned_until


def _score(score: int, good: bool) -> int:
    return min(score + 1, _FULL) if good else max(score - _SLOW_COSTS, 0)
