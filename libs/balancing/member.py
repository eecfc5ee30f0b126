"""One endpoint's weight as its load reports move it."""

from __future__ import annotations

import copy
import math

from libs.balancing.weight import after_window

# All times in seconds. docs/balancing.md says where the numbers come from.

# A share doubles in this time at most, whether earned by answers or by silence: an endpoint that comes back cold sees
# its calls grow slower than it warms up. From START to all of it takes 4 s, from FLOOR 10 s.
DOUBLING_S = 1.0
# What an endpoint that is new in a running pool, or was away, begins with.
START = 1 / 16
# The least share of a failing endpoint. It costs one call in a thousand in a pool of two.
FLOOR = 1 / 1000
# How long an endpoint stays where a failure put it before silence earns anything: the first time, and at most. Each
# failed trial doubles it.
QUIET_S, MAX_QUIET_S = 0.5, 4.0
# An endpoint that misses so many of the calls that it could have expected is out of the data plane's hands (ejected,
# failing its health check), since chance alone does that once in e^20 times: it will come back cold.
AWAY_CALLS = 20.0
# Above this share a failure is the first of its kind again, not a failed trial.
RECOVERED = 0.5

# Latency follows a higher window mean at once, as far as its number of calls lets one trust it, and comes down with
# this time constant.
LATENCY_TAU_S = 3.0
LATENCY_TRUST_CALLS = 8


class Member:
    """`share` is the part of its weight (FLOOR to 1) that outcomes leave to it, `latency_ms` what its calls take
    (None before the first).
    """

    __slots__ = (
        "_failed_at",
        "_latency_at",
        "_missed",
        "_quiet_s",
        "_stepped_at",
        "_waiting_since",
        "latency_ms",
        "share",
        "weight",
    )

    def __init__(self, weight: int, now_s: float, *, share: float = 1.0) -> None:
        if weight < 1:
            raise ValueError(f"weight is {weight}, expected at least 1")
        self.weight = weight
        self.share = share
        self.latency_ms: float | None = None
        self._latency_at = now_s
        self._stepped_at = now_s
        self._failed_at = float("-inf")
        self._quiet_s = QUIET_S
        self._missed = 0.0
        self._waiting_since: float | None = None  # calls were seen there, and none has ended since

    def reweighted(self, weight: int) -> Member:
        """The same endpoint under another configured weight."""
        found = copy.copy(self)
        found.weight = weight
        return found

    def observe(self, successes: int, failures: int, in_flight: int, now_s: float) -> None:
        """Calls that ended in a window, of which there is at least one, and those still there."""
        self._missed = 0.0
        self._waiting_since = now_s if in_flight else None
        goal = after_window(self.share, successes, failures)
        if goal < self.share:
            # A failed trial, unless the share had come back meanwhile.
            self._quiet_s = min(MAX_QUIET_S, self._quiet_s * 2) if self.share < RECOVERED else QUIET_S
            self._failed_at = now_s
            self.share = max(FLOOR, goal)
            self._stepped_at = now_s
        else:
            self._grow(goal, now_s)

    def idle(self, expected: float, in_flight: int, now_s: float) -> None:
        """No call of it ended in a window, while others of the pool did; `expected` of them could have been its own.

        With 0.1 % of a small pool's calls it could wait minutes for the call that shows its recovery, so silence
        earns as answers do. Calls that it holds without an end earn nothing.
        """
        if in_flight and self._waiting_since is None:
            self._waiting_since = now_s
        if self._waiting_since is not None:
            # One of its calls has taken so long already, whichever data plane sent it.
            waited_ms = (now_s - self._waiting_since) * 1000
            if self.latency_ms is not None and waited_ms > self.latency_ms:
                self.latency_ms, self._latency_at = waited_ms, now_s
            self._stepped_at = now_s
            return
        self._forget_latency(now_s)
        self._missed += expected
        if self._missed >= AWAY_CALLS and self.share > START:
            self.share = START
        elif self._missed < AWAY_CALLS and now_s - self._failed_at >= self._quiet_s:
            self._grow(1.0, now_s)
            return
        self._stepped_at = now_s

    def observe_latency(self, mean_ms: float, calls: int, now_s: float) -> None:
        """The mean of the calls that were answered in a window, of which there is at least one."""
        left_ms = self._latency_left(now_s)
        if self.latency_ms is None:
            self.latency_ms = mean_ms
        elif mean_ms > self.latency_ms:
            self.latency_ms += (mean_ms - self.latency_ms) * calls / (calls + LATENCY_TRUST_CALLS)
        else:
            self.latency_ms = max(mean_ms, left_ms)
        self._latency_at = now_s

    def _forget_latency(self, now_s: float) -> None:
        """Without answers a peak fades as well, or an endpoint that gets next to no calls would stay slow for ever."""
        if self.latency_ms is not None:
            self.latency_ms = self._latency_left(now_s)
            self._latency_at = now_s

    def _latency_left(self, now_s: float) -> float:
        return (self.latency_ms or 0.0) * math.exp(-max(0.0, now_s - self._latency_at) / LATENCY_TAU_S)

    def _grow(self, goal: float, now_s: float) -> None:
        steps = min(1.0, max(0.0, now_s - self._stepped_at) / DOUBLING_S)
        self.share = min(goal, self.share * 2.0**steps)
        self._stepped_at = now_s
