"""Writes the Prometheus text format. By hand: a page of a thousand tasks has tens of thousands of lines.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def labels(**values: object) -> str:
    """`{task="69",code="OK"}`; the form in which samples take their labels."""
    return "{" + ",".join(f'{name}="{escape(str(value))}"' for name, value in values.items()) + "}"


def escape(value: str) -> str:
    return value.translate(_ESCAPES)


class Exposition:
    """The page, family by family. A family's samples follow its head."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._name = ""

    def family(self, name: str, kind: str, text: str) -> Exposition:
        """Begins a family. `kind` is counter, gauge, histogram or summary."""
        self._name = name
        self._lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}")
        return self

    def add(self, value: float, labels: str = "", suffix: str = "") -> Exposition:
        """One sample of the family."""
        self._lines.append(f"{self._name}{suffix}{labels} {_number(value)}")
        return self

    def single(self, name: str, kind: str, text: str, value: float) -> Exposition:
        """A family of one sample without labels."""
        return self.family(name, kind, text).add(value)

    def histogram(self, labels: str, bounds: Sequence[str], cumulative: Sequence[int], total: float) -> None:
        """One histogram of the family. `bounds` without +Inf, which the last count is of; `total` is the sum."""
        name, inside = self._name, labels[:-1]
        self._lines += [
            f'{name}_bucket{inside},le="{bound}"}} {count}'
            for bound, count in zip((*bounds, "+Inf"), cumulative, strict=True)
        ]
        self._lines += (f"{name}_sum{labels} {_number(total)}", f"{name}_count{labels} {cumulative[-1]}")

    def render(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()


def _number(value: float) -> str:
    if isinstance(value, int):  # also True and False
        return str(int(value))
    return repr(value) if value != int(value) else str(int(value))
