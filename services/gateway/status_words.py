"""Numbers as people read them, on the status page and in the terminal."""

from __future__ import annotations

import time


def clock(seconds: float) -> str:
    """A time since the epoch."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def number(value: float) -> str:
    """Three digits that matter: 0.31, 27.4, 1 520, 18.3 k."""
    if value >= 10_000:
        return f"{value / 1000:.1f} k" if value < 1_000_000 else f"{value / 1e6:.2f} M"
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(ratio: float) -> str:
    """Of 1."""
    value = ratio * 100
    if value == 0:
        return "0 %"
    return (
        "< 0.01 %"
        if value < 0.01
        else f"{value:.2f} %" if value < 1 else f"{value:.1f} %" if value < 99.95 else "100 %"
    )


def ms(value: float | None) -> str:
    """Milliseconds; "-" where there are none."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def span(seconds: float) -> str:
    """A duration in its two largest units."""
    seconds = max(0, int(seconds))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
