"""What values of flags may look like: readers for argparse, whose errors say what was expected."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def truth(text: str) -> bool:
    """`true`, `false`, `1` or `0`, in any case."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() in ("true", "1")


def name(text: str) -> str:
    """Anything but nothing."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a name")
    return text


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name(part) for part in text.split(",")]


def between(low: int, high: int) -> Callable[[str], int]:
    """A whole number from low to high."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return value

    return parse


def milliseconds(text: str) -> float:
    """Up to ten seconds."""
    return _number(text, "milliseconds", 10_000)


def seconds(text: str) -> float:
    """Up to an hour."""
    return _number(text, "seconds", 3600)


def poll_seconds(text: str) -> float:
    """Up to a day; 0 is never again."""
    return _number(text, "seconds", 86_400)


def _number(text: str, unit: str, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= high:
        raise argparse.ArgumentTypeError(f"expected {unit} from 0 to {high:g}, got {text!r}")
    return value
