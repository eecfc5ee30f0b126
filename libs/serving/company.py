"""When an incomplete batch should wait for company. Pure; the clock is the caller's.

Waiting pays for callers who come back. Those who were answered together send their next requests together, a
moment later, and whoever comes first would start a run without the others: they would wait for all of it, and the
next batch would find the same. So after a run ends, the next may be held until the answered have returned.

How many return, and how soon, is measured after every run: the share of its items that is matched by arrivals
within the window, half of what an empty run takes, and the time of the last of them. With n waiting, k to come
within h seconds, and runs of base seconds plus something a row, the hold costs n * h seconds of waiting and saves
the k most of a run each, base - h: it is held if k * (base - h) > n * h. A stream of strangers does not pass that
test: what arrives in a window is few against what piled up during the run, and it arrives late in it. A lone caller
does not either: when it is back, all are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

# A hold may take so much of an empty run. With more it would delay the waiting by more than the run itself that it
# may save the others.
_WINDOW_SHARE = 0.5
# Weight of the last run in the averages: some four runs are remembered.
_WEIGHT = 0.25
# Stragglers are given so much more than the time that the last one takes on average. In the simulation the 99th
# percentile of few callers falls up to there, and strangers see no difference.
_PATIENCE = 3.0
# A wake-up of a sleeping thread takes about as long: a shorter hold is none.
_LEAST_S = 50e-6


_arrived = attrgetter("arrived")


@dataclass(slots=True)
class _Window:
    """The time after one run's end: who came back?"""

    begin: float
    end: float
    items: int
    returned: int = 0
    last_s: float = 0.0

    def count(self, batch: Sequence[Any]) -> None:
        if batch[0].arrived > self.end or batch[-1].arrived <= self.begin:
            return
        upto = bisect_right(batch, self.end, key=_arrived)
        returned = upto - bisect_right(batch, self.begin, hi=upto, key=_arrived)
        if returned:
            self.returned += returned
            self.last_s = batch[upto - 1].arrived - self.begin


_NONE = _Window(float("-inf"), float("-inf"), 0)


class Company:
    """Learns who returns after a run, and says how long to hold the next for them.

    Args:
        bound_s: longest hold, whatever is expected; 0 for none ever, inf to leave it to what was learned.
    """

    __slots__ = ("_arrivals", "_base_s", "_before", "_bound_s", "_items", "_last_s", "_returned", "_window")

    def __init__(self, bound_s: float) -> None:
        self._bound_s = bound_s
        # The run that ended last, and the one before it: whoever returned after that one may have waited for both.
        self._window = self._before = _NONE
        self._arrivals = 0
        self._base_s = 0.0
        # Averages: items of a run, how many of them returned, and the time of the last.
        self._items = 0.0
        self._returned = 0.0
        self._last_s = 0.0

    def ended(self, items: int, base_s: float, arrivals: int, now: float) -> None:
        """A run of so many items ended now. An empty one takes base_s seconds; so many items have arrived, ever."""
        window_s = min(_WINDOW_SHARE * base_s, self._bound_s)
        if window_s < _LEAST_S:
            self._window = self._before = _NONE
            return
        past = self._before
        if past.items:
            self._items += _WEIGHT * (past.items - self._items)
            self._returned += _WEIGHT * (min(past.returned, past.items) - self._returned)
            if past.returned:
                self._last_s += _WEIGHT * (past.last_s - self._last_s)
        self._before = self._window
        self._window = _Window(now, now + window_s, items)
        self._base_s = base_s
        self._arrivals = arrivals

    def taken(self, batch: Sequence[Any]) -> None:
        """A batch begins to run; its tickets have `arrived`, ascending."""
        self._window.count(batch)
        self._before.count(batch)

    def hold(self, waiting: int, arrivals: int, now: float) -> tuple[float, int] | None:
        """Until when to hold what waits, and until how many wait; None to run it now.

        Args:
            waiting: items that wait.
            arrivals: items that have arrived, ever.
            now: seconds.
        """
        window = self._window
        until = min(window.begin + _PATIENCE * self._last_s, window.end)
        left_s = until - now
        if left_s < _LEAST_S:
            return None
        coming = window.items * self._returned / self._items if self._items else 0.0
        coming -= arrivals - self._arrivals
        if coming < 0.5 or coming * (self._base_s - left_s) <= waiting * left_s:
            return None
        return until, waiting + round(coming)
