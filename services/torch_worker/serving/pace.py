"""Whether the hooks after the model are so slow that they should not hold it up."""

from __future__ import annotations

# Handing an output to another thread and the answer back costs about a tenth of a millisecond. A hook that takes
# several times as long is worth it; between the two bounds things stay as they are.
_SLOW_S, _QUICK_S = 0.0005, 0.00025
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
