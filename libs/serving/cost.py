"""How long a model call takes, learned from the calls: a typical time as a function of rows, and a time that no call
undercuts. Pure; the clock is the caller's. All times are in seconds.

**Typical.** seconds = row_s * rows + base_s. Calls are sorted by size into classes of a factor of two; each class
keeps its last few calls and stands for them with its median rows and median seconds, so that one call in two may be
disturbed without a trace. The line goes through the classes by least squares of the relative error, with neither
coefficient below 0. A class counts for half as much with every `_HALF_LIFE_S` since its last call: what small
batches take is still known while only large ones run, and is outvoted once it no longer fits. While all calls were
of one size, nothing tells the two coefficients apart, and rows count as free: larger calls are not feared before one
was seen.

**Least.** For refusing a request because it comes too late, only what is certain counts, and the estimate must not
feed on itself: refused requests teach nothing, so now and then one of them runs (`start_by`).
"""

from __future__ import annotations

from collections import deque

from libs.serving.errors import DeadlineExceeded

# Calls remembered of each size class. Small: the present load is what counts, and the median of 7 forgives 3.
_CLASS_CALLS = 7
# A busy machine, a clock rate, a longer input: what a call takes may change within seconds.
_HALF_LIFE_S = 10.0
# A fit costs some microseconds: one in so many seconds is enough, but the first calls count at once.
_FIT_EVERY_S, _FIRST_CALLS = 0.010, 16

# Calls remembered for the least time.
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


class _SizeClass:
    __slots__ = ("last", "rows", "seconds")

    def __init__(self) -> None:
        self.rows: deque[int] = deque(maxlen=_CLASS_CALLS)
        self.seconds: deque[float] = deque(maxlen=_CLASS_CALLS)
        self.last = 0.0


class CallCost:
    """Remembers the calls of one model. Not thread safe: the owner holds a lock.

    Attributes:
        calls: how many were observed.
        row_s: seconds that a row adds to a call; 0 until a call was observed.
        base_s: seconds that a call takes whatever its rows; 0 until a call was observed.
    """

    __slots__ = (
        "_classes",
        "_current",
        "_fitted",
        "_last",
        "_least_row_s",
        "_least_s",
        "_probed",
        "_seen",
        "base_s",
        "calls",
        "row_s",
    )

    def __init__(self) -> None:
        self.calls = 0
        self.row_s = 0.0
        self.base_s = 0.0
        self._classes: dict[int, _SizeClass] = {}
        self._fitted = float("-inf")
        self._seen: deque[tuple[float, float]] = deque()
        self._current = False  # whether the least times are those of the calls remembered
        self._least_s = 0.0
        self._least_row_s = 0.0
        self._last = float("-inf")
        self._probed = float("-inf")

    def observe(self, seconds: float, rows: int, now: float) -> None:
        """A call of so many rows took so many seconds and ended now."""
        rows = max(rows, 1)
        self.calls += 1
        size = rows.bit_length()
        seen = self._classes.get(size)
        if seen is None:
            seen = self._classes[size] = _SizeClass()
        seen.rows.append(rows)
        seen.seconds.append(seconds)
        seen.last = now
        if self.calls <= _FIRST_CALLS or now - self._fitted >= _FIT_EVERY_S:
            self._fit(now)
        if now - self._last > _ROW_MEMORY_S:
            self._seen.clear()
            self._current = False
        self._last = self._probed = now
        remembered = self._seen
        row_s = seconds / rows
        if len(remembered) == _WINDOW:
            oldest_s, oldest_row_s = remembered.popleft()
            self._current = self._current and oldest_s > self._least_s and oldest_row_s > self._least_row_s
        remembered.append((seconds, row_s))
        if self._current:
            if seconds < self._least_s:
                self._least_s = seconds
            if row_s < self._least_row_s:
                self._least_row_s = row_s

    def typical(self, rows: int) -> float:
        """Seconds that a call of so many rows is expected to take; 0 until a call was observed."""
        return self.base_s + self.row_s * rows

    def least(self, now: float) -> float:
        """Seconds that any call surely takes, as far as is known now; 0 if nothing is."""
        age = now - self._last
        if age > _ROW_MEMORY_S or not self._seen:
            return 0.0
        if not self._current:
            self._current = True
            self._least_s = min([call for call, _ in self._seen])
            self._least_row_s = min([row for _, row in self._seen])
        needed = _ROW_SHARE * self._least_row_s
        return max(needed, _CALL_SHARE * self._least_s) if age <= _CALL_MEMORY_S else needed

    def start_by(self, deadline: float, now: float) -> float:
        """When a call must begin to end by the deadline.

        Once a second at most, and only when no call has run for a second, a request that seems to come too late gets
        its deadline for an answer: it shall run all the same, to renew the memory.

        Raises:
            DeadlineExceeded: no call can end by then.
        """
        left, least = deadline - now, self.least(now)
        if left > least:
            return deadline - least
        if left <= 0:
            raise DeadlineExceeded("the deadline passed before the request was queued")
        if now - self._probed < _PROBE_S:
            raise DeadlineExceeded(
                f"the deadline is in {left * 1e3:.0f} ms and the model takes {least * 1e3:.0f} ms or more, so it was "
                "not run"
            )
        self._probed = now
        return deadline

    def _fit(self, now: float) -> None:
        self._fitted = now
        weights = rows_1 = rows_2 = seconds_1 = products = 0.0
        for seen in self._classes.values():
            rows = sorted(seen.rows)[(len(seen.rows) - 1) // 2]
            seconds = sorted(seen.seconds)[(len(seen.seconds) - 1) // 2]
            weight = len(seen.rows) * 0.5 ** ((now - seen.last) / _HALF_LIFE_S)
            weight /= max(seconds, 1e-9) ** 2  # errors count in proportion
            weights += weight
            rows_1 += weight * rows
            rows_2 += weight * rows * rows
            seconds_1 += weight * seconds
            products += weight * rows * seconds
        spread = weights * rows_2 - rows_1 * rows_1
        if spread <= 1e-6 * weights * rows_2:  # one size, as far as it counts
            self.row_s, self.base_s = 0.0, seconds_1 / weights
            return
        row_s = (weights * products - rows_1 * seconds_1) / spread
        base_s = (seconds_1 - row_s * rows_1) / weights
        if row_s < 0.0:
            row_s, base_s = 0.0, seconds_1 / weights
        elif base_s < 0.0:
            row_s, base_s = products / rows_2, 0.0
        self.row_s, self.base_s = row_s, base_s
