"""One endpoint's weight as its load reports move it."""

from __future__ import annotations

import copy
import math

from libs.balancing.tuning import DEFAULT, Tuning
from libs.balancing.weight import after_window


class Member:
    """`share` is the part of its weight (tuning.floor to 1) that outcomes leave to it, `latency_ms` what its calls take
    (None before the first).
    """

    __slots__ = (
        "_failed_at",
        "_latency_at",
        "_missed",
        "_quiet_s",
        "_stepped_at",
        "_tuning",
        "_waiting_since",
        "latency_ms",
        "share",
        "weight",
    )

    def __init__(self, weight: int, now_s: float, *, share: float = 1.0, tuning: Tuning = DEFAULT) -> None:
        if weight < 1:
            raise ValueError(f"weight is {weight}, expected at least 1")
        self._tuning = tuning
        self.weight = weight
        self.share = share
        self.latency_ms: float | None = None
        self._latency_at = now_s
        self._stepped_at = now_s
        self._failed_at = float("-inf")
        self._quiet_s = self._tuning.quiet_s
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
            self._quiet_s = (
                min(self._tuning.max_quiet_s, self._quiet_s * 2)
                if self.share < self._tuning.recovered
                else self._tuning.quiet_s
            )
            self._failed_at = now_s
            self.share = max(self._tuning.floor, goal)
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
        if self._missed >= self._tuning.away_calls and self.share > self._tuning.start:
            self.share = self._tuning.start
        elif self._missed < self._tuning.away_calls and now_s - self._failed_at >= self._quiet_s:
            self._grow(1.0, now_s)
            return
        self._stepped_at = now_s

    def observe_latency(self, mean_ms: float, calls: int, now_s: float) -> None:
        """The mean of the calls that were answered in a window, of which there is at least one."""
        left_ms = self._latency_left(now_s)
        if self.latency_ms is None:
            self.latency_ms = mean_ms
        elif mean_ms > self.latency_ms:
            self.latency_ms += (
                (mean_ms - self.latency_ms) * calls / (calls + self._tuning.latency_trust_calls)
            )
        else:
            self.latency_ms = max(mean_ms, left_ms)
        self._latency_at = now_s

    def _forget_latency(self, now_s: float) -> None:
        """Without answers a peak fades as well, or an endpoint that gets next to no calls would stay slow for ever."""
        if self.latency_ms is not None:
            self.latency_ms = self._latency_left(now_s)
            self._latency_at = now_s

    def _latency_left(self, now_s: float) -> float:
        return (self.latency_ms or 0.0) * math.exp(
            -max(0.0, now_s - self._latency_at) / self._tuning.latency_tau_s
        )

    def _grow(self, goal: float, now_s: float) -> None:
        steps = min(1.0, max(0.0, now_s - self._stepped_at) / self._tuning.doubling_s)
        self.share = min(goal, self.share * 2.0**steps)
        self._stepped_at = now_s
