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
# Twice as long each time, since a model whose quick calls are now and then long does so again; and no longer than this.
_MAX_BAN_S = 600.0


class Quick:
    """Remembers model calls. Observed by one thread at a time."""

    def __init__(self) -> None:
        self._calls: deque[tuple[bool, int]] = deque()
        self._long = 0
        self._size = 0
        self._banned_until = float("-inf")
        self._ban_s = _BAN_S

    def observe(self, seconds: float, size: int, now: float) -> None:
        """A call on so many numbers took so many seconds and ended now."""
        calls = self._calls
        forgotten_size = -1
        if len(calls) == _WINDOW:
            forgotten_long, forgotten_size = calls.popleft()
            self._long -= forgotten_long
        long = seconds > _LIMIT_S
        calls.append((long, size))
        self._long += long
        if size > self._size:
            self._size = size
        elif size < self._size and forgotten_size == self._size:
            self._size = max(seen for _, seen in calls)
        if seconds > _FAR_TOO_LONG_S and now >= self._banned_until:
            self._banned_until = now + self._ban_s
            self._ban_s = min(_MAX_BAN_S, self._ban_s * 2)

    def allows(self, size: int, now: float) -> bool:
        """Whether a call on so many numbers, in however many rows, may be expected to be quick."""
        return (
            len(self._calls) == _WINDOW
            and self._long <= _OUTLIERS
            and size <= self._size
            and now >= self._banned_until
        )
