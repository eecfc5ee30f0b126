"""Whether and when a call is sent again: the clock and the randomness are passed in."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from dl_inference.errors import DeadlineExceeded
from dl_inference.options import RetryPolicy

_ALWAYS = 10.0
"""Retries that a client with next to no calls may make at a time."""


class RetryBudget:
    """A token bucket that calls fill and retries empty, so that of all calls only a share is sent again (the idea is
    finagle's). Thread-safe."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = _ALWAYS
        self._lock = threading.Lock()

    def called(self) -> None:
        """A call was begun."""
        with self._lock:
            self._tokens = min(_ALWAYS * 10, self._tokens + self._share)

    def take(self) -> bool:
        """Whether a retry may be made; it is then paid for."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


class Attempts:
    """One call's attempts, from the first to the last.

    Args:
        timeout_s: of the call with all of its attempts.
        clock: seconds, never backwards.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        timeout_s: float,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._timeout_s = timeout_s
        self._clock = clock
        self._rng = rng
        self._began = clock()
        self.count = 0
        budget.called()

    @property
    def seconds(self) -> float:
        """Since the call began."""
        return self._clock() - self._began

    def begin(self) -> float:
        """Seconds that this attempt may take. Raises DeadlineExceeded when there are none left."""
        left_s = self._timeout_s - self.seconds
        if left_s <= 0:
            raise DeadlineExceeded(f"no answer within {self._timeout_s:g} s", attempts=self.count)
        self.count += 1
        return left_s

    def wait_s(self, code: str) -> float | None:
        """After a failed attempt: seconds to wait before the next; None when this failure is the call's."""
        policy = self._policy
        if code not in policy.codes or self.count >= policy.attempts:
            return None
        longest_s = min(policy.max_backoff_s, policy.backoff_s * 2.0 ** (self.count - 1))
        wait_s = self._rng.uniform(0, longest_s)
        if self.seconds + wait_s >= self._timeout_s or not self._budget.take():
            return None
        return wait_s
