"""How load goes over time: the number of users at each moment, pure.

A user of the closed loop has one call in flight; one of the open loop begins calls at a constant rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

STEPS = 10  # of a ramp

Users = Callable[[float], int | None]
"""The users at a time in seconds; None when the load is over."""


def steady(users: int, seconds: float) -> Users:
    """The same all the time. A soak is a long one."""
    return lambda at: users if at < seconds else None


def ramp(users: int, seconds: float) -> Users:
    """From a tenth up to all in ten equal steps: where answers begin to take longer is what a system can do."""

    def now(at: float) -> int | None:
        if at >= seconds:
            return None
        return max(1, math.ceil(users * (math.floor(at / seconds * STEPS) + 1) / STEPS))

    return now


def spike(users: int, seconds: float) -> Users:
    """A fifth of the users, and all of them for the third of five parts: what a burst does, and leaves behind."""

    def now(at: float) -> int | None:
        if at >= seconds:
            return None
        return users if 0.4 <= at / seconds < 0.6 else max(1, users // 5)

    return now


def kept_seconds(seconds: float, warm_up_s: float) -> range:
    """The seconds of a run that are kept: whole ones, after its warm-up.

    Raises:
        ValueError: there are none.
    """
    kept = range(math.ceil(warm_up_s), math.floor(seconds))
    if not kept:
        raise ValueError(
            f"nothing would be kept of {seconds:g} s of which {warm_up_s:g} s are for warming up: run it for at least"
            f" {math.ceil(warm_up_s) + 1} s"
        )
    return kept


SHAPES = {"steady": steady, "ramp": ramp, "spike": spike, "soak": steady}
