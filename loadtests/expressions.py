"""The limits of budgets: a number with a unit, or a sum of what was measured in the same run, as `direct.p50 + 2 *
echo.p50`. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_METRICS = ("p50", "p95", "p99", "qps")
_TARGETS = ("gateway", "direct", "echo")
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "/s": 1.0, "%": 0.01, "": 1.0}

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|/s|%)?")
_TERM = re.compile(r"(?:(\d+(?:\.\d+)?)\s*\*\s*)?([a-z]+)\.([a-z0-9]+)")


@dataclass(frozen=True, slots=True)
class Term:
    """A number, or a multiple of a metric."""

    factor: float
    target: str = ""
    metric: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A sum of terms. `text` is how it was written."""

    text: str
    terms: tuple[Term, ...]

    def value(self, measured: Callable[[str, str], float | None]) -> float | None:
        """The sum, in milliseconds, answers a second or as a share; None where something was not measured.

        Args:
            measured: a metric by target and name.
        """
        total = 0.0
        for term in self.terms:
            of = measured(term.target, term.metric) if term.target else 1.0
            if of is None:
                return None
            total += term.factor * of
        return total

    @property
    def relative(self) -> bool:
        """Whether it refers to what was measured."""
        return any(term.target for term in self.terms)


def parse(text: str | int | float) -> Limit:
    """A limit.

    Raises:
        ValueError: it is none; the message says what was expected.
    """
    text = str(text)
    return Limit(text, tuple(_term(part.strip()) for part in text.split("+")))


def _term(text: str) -> Term:
    if number := _NUMBER.fullmatch(text):
        return Term(float(number[1]) * _UNITS[number[2] or ""])
    named = _TERM.fullmatch(text)
    if named is None:
        raise ValueError(
            f"{text!r} is no limit: expected a number with a unit (5 ms, 200 /s, 0.1 %) or a multiple of something"
            " measured (1.5 * direct.p50), or a sum of such"
        )
    if named[2] not in _TARGETS:
        raise ValueError(f"{text!r}: {named[2]!r} is not measured: expected one of {', '.join(_TARGETS)}")
    if named[3] not in _METRICS:
        raise ValueError(f"{text!r}: {named[3]!r} is no metric: expected one of {', '.join(_METRICS)}")
    return Term(float(named[1] or 1), named[2], named[3])
