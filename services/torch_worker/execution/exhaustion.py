"""How many rows fit into memory, learnt from calls that ran out of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# After so long the limit grows by a share, so that one bad moment (another process's memory) does not bind for good.
# Each growth that fails doubles the wait for the next.
_GROWTH_S, _LONGEST_S = 30.0, 960.0
_GROWTH = 1.125
# Kinds of input remembered, each with its own limit: the memory of a row depends on its shape.
_MAX_KINDS = 64


@dataclass(slots=True)
class _Limit:
    rows: int
    too_many: int
    fitted: int
    grown: float
    wait_s: float


class RowLimits:
    """Largest numbers of rows in a call, by kind of input. Used by any thread; free where memory never ran out.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._limits: dict[Hashable, _Limit] = {}

    def allowed(self, kind: Hashable) -> int | None:
        """Most rows that a call should have now; None for any number."""
        if not self._limits:
            return None
        with self._lock:
            limit = self._limits.get(kind)
            if limit is None:
                return None
            now = self._clock()
            if now - limit.grown >= limit.wait_s:
                limit.grown = now
                limit.rows = max(limit.rows + 1, int(limit.rows * _GROWTH))
                if limit.rows > limit.too_many:
                    del self._limits[kind]
                    return None
            return limit.rows

    def fitted(self, kind: Hashable, rows: int) -> None:
        """A call of so many rows found memory."""
        if not self._limits:
            return
        with self._lock:
            limit = self._limits.get(kind)
            if limit is not None and rows > limit.fitted:
                limit.fitted = rows
                limit.wait_s = _GROWTH_S

    def exhausted(self, kind: Hashable, rows: int) -> int:
        """A call of so many rows ran out of memory; answers the new limit, 1 or more."""
        with self._lock:
            limit = self._limits.get(kind)
            fitted = limit.fitted if limit is not None and limit.fitted < rows else 0
            # What has fitted is where the growth began: the limit is known, and is tried less and less often.
            wait_s = min(2 * limit.wait_s, _LONGEST_S) if limit is not None and fitted else _GROWTH_S
            allowed = max(1, rows // 2, fitted)
            if limit is None and len(self._limits) >= _MAX_KINDS:
                del self._limits[next(iter(self._limits))]
            self._limits[kind] = _Limit(allowed, rows, fitted, self._clock(), wait_s)
            return allowed
