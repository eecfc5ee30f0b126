"""Whether the hooks after the model are so slow that they should not hold it up."""

from __future__ import annotations

# Measured on two cores, 16 requests in flight: throughput with hooks on two threads of their own, as a multiple of that
# with hooks on the model's thread. A hook that waits (sleep): 1.1 to 1.8 at 0.1 to 0.3 ms, 1.4 to 2.0 from 1 ms on.
# One that computes outside of Python's lock (a sort): 0.6 at 0.1 ms, 1.0 at 0.3 ms, 0.9 to 1.6 from 1 ms on. One of
# Python alone: 0.7 at 0.1 ms; from 1 ms on 1.2 beside a small model, and 0.75 beside one whose every operator has to
# win Python's lock back. Between the two bounds things stay as they are: on threads of their own hooks seem to take
# longer.
_SLOW_S, _QUICK_S = 0.001, 0.0005
# Weight of the newest of the observations.
_SHARE = 0.1


class Pace:
    """Remembers how long hooks take for a request. Observed by any thread: an observation lost does no harm.

    Attributes:
        slow: whether that is long.
    """

    def __init__(self) -> None:
        self.slow = False
        self._mean_s: float | None = None

    def observe(self, seconds: float, requests: int) -> None:
        """Hooks for so many requests took so many seconds together."""
        each = seconds / max(requests, 1)
        mean = each if self._mean_s is None else self._mean_s + _SHARE * (each - self._mean_s)
        self._mean_s = mean
        self.slow = mean > (_QUICK_S if self.slow else _SLOW_S)
