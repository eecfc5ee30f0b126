"""Whether a model is so quick that its calls may run on the event loop's own thread; see `turn`.

The price is that the loop stands still meanwhile, so only models that were seen to be quick, again and again, are run
there.
"""

from __future__ import annotations

from collections import deque

# Calls remembered; as many must have been seen.
_WINDOW = 32
# A call that holds the loop no longer than this delays others no more than a batch before them would.
_LIMIT_S = 0.001
# So many of the window's calls may be longer: on a busy machine calls are interrupted.
_OUTLIERS = 8
# One call as long as this, and the model is left alone for so long.
_FAR_TOO_LONG_S = 0.050
_BAN_S = 10.0


class Quick:
    """Remembers model calls. Observed by one thread at a time."""

    def __init__(self) -> None:
        self._calls: deque[tuple[bool, int]] = deque()
        self._long = 0
        self._rows = 0
        self._banned_until = float("-inf")

    def observe(self, seconds: float, rows: int, now: float) -> None:
        """A call of so many rows took so many seconds and ended now."""
        calls = self._calls
        forgotten_rows = -1
        if len(calls) == _WINDOW:
            forgotten_long, forgotten_rows = calls.popleft()
            self._long -= forgotten_long
        long = seconds > _LIMIT_S
        calls.append((long, rows))
        self._long += long
        if rows > self._rows:
            self._rows = rows
        elif rows < self._rows and forgotten_rows == self._rows:
            self._rows = max(seen for _, seen in calls)
        if seconds > _FAR_TOO_LONG_S:
            self._banned_until = now + _BAN_S

    def allows(self, rows: int, now: float) -> bool:
        """Whether a call of so many rows may be expected to be quick."""
        return (
            len(self._calls) == _WINDOW
            and self._long <= _OUTLIERS
            and rows <= self._rows
            and now >= self._banned_until
        )
