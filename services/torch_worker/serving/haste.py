"""Whether a request can still be answered in time, from how long the model was seen to take.

A request whose deadline comes before the model could possibly finish is refused instead of run: the caller
would throw the answer away, and the model is kept from others meanwhile. The estimate errs on the side of
running, and does not feed on itself: refused requests teach nothing, so now and then one of them runs.
"""

from __future__ import annotations

from collections import deque

# Model calls remembered.
_WINDOW = 32
# When no call has run for so long, a request runs although it seems to have too little time: the model may be
# faster by now, as after the first call of a process (caches, memory, CUDA's start).
_PROBE_S = 1.0
# Two lower bounds of a call's time. The time per row of the fastest remembered call is one that no change of
# load undercuts, since a call's time grows at most in proportion to its rows: half of it is trusted for a
# minute. The whole time of the fastest call says what calls take under the present load: trusted for a
# second.
_ROW_SHARE, _ROW_MEMORY_S = 0.5, 60.0
_CALL_SHARE, _CALL_MEMORY_S = 0.9, 1.0


class Haste:
    """Remembers model calls; one thread observes, others may ask."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self._least_s = 0.0
        self._least_row_s = 0.0
        self._last = float("-inf")
        self._probed = float("-inf")

    def observe(self, seconds: float, rows: int, now: float) -> None:
        """A call of so many rows took so many seconds and ended now."""
        if now - self._last > _ROW_MEMORY_S:
            self._seen.clear()
        self._last = now
        self._seen.append((seconds, seconds / max(rows, 1)))
        self._probed = now
        self._least_s = min(call for call, _ in self._seen)
        self._least_row_s = min(row for _, row in self._seen)

    def needed(self, now: float) -> float:
        """Seconds that a call surely takes, as far as is known now; 0 if nothing is."""
        age = now - self._last
        if age > _ROW_MEMORY_S:
            return 0.0
        needed = _ROW_SHARE * self._least_row_s
        return max(needed, _CALL_SHARE * self._least_s) if age <= _CALL_MEMORY_S else needed

    def probes(self, now: float) -> bool:
        """Whether a request that seems to come too late shall run all the same, to renew the memory.

        True once a second at most, and only when no call has run for a second.
        """
        if now - self._probed < _PROBE_S:
            return False
        self._probed = now
        return True
