"""Results as a picture: a dot a contender, scenarios down, failed calls and p99 across."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

from libs.balancing.simulator.report import rows
from libs.balancing.simulator.run import Result

# Okabe and Ito's colours, which the colour-blind tell apart too; the shapes say it once more.
_COLOURS = ("#999999", "#e69f00", "#56b4e9", "#0072b2", "#d55e00")
_STYLES = tuple(zip(_COLOURS, ("cross", "square", "ring", "dot", "diamond"), strict=True))

_LEFT, _TOP, _ROW, _WIDTH, _GAP = 132, 96, 30, 330, 46
_INK, _SOFT, _LINE = "#222222", "#666666", "#e4e4e4"


class _Axis:
    """A logarithmic axis from `low` to `high`, with room at its left for zero if `zero`."""

    def __init__(self, left: float, low: float, high: float, *, zero: bool) -> None:
        self._zero = 34 if zero else 8
        self.left = left
        self._low, self._high = math.log10(low), math.log10(high)

    def x(self, value: float) -> float:
        if value <= 10**self._low * (1 - 1e-9):
            return self.left + 8  # zero, or too little to tell from it
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self.left + self._zero + share * (_WIDTH - self._zero - 10)


def svg(results: Sequence[Result]) -> str:
    """A complete SVG document. At most five contenders."""
    table = rows(results)
    names = list(dict.fromkeys(name for line in table.values() for name in line))
    bottom = _TOP + _ROW * len(table)
    width = _LEFT + 2 * _WIDTH + _GAP + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 40}" '
        f'width="{width}" height="{bottom + 40}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{bottom + 40}" fill="#ffffff"/>',
    ]
    at = _LEFT
    for name, style in zip(names, _STYLES, strict=False):
        parts.append(_mark(style, at, 26))
        label = name.removeprefix("envoy ")
        parts.append(_text(at + 11, 30, label))
        at += 34 + int(6.2 * len(label))
    for number, scenario in enumerate(table):
        y = _TOP + _ROW * (number + 0.5)
        parts.append(_text(_LEFT - 12, y + 4, scenario, anchor="end"))
    failed = _Axis(_LEFT, 0.01, 30, zero=True)
    slow = _Axis(_LEFT + _WIDTH + _GAP, 10, 3000, zero=False)
    marks = ((0.0, "0"), (0.01, "0.01"), (0.1, "0.1"), (1, "1"), (10, "10"))
    parts += _panel("Calls that failed, %", failed, marks, table, lambda r: 100 * (1 - r.success))
    ticks = ((10, "10"), (30, "30"), (100, "100"), (300, "300"), (1000, "1000"), (3000, "3000"))
    parts += _panel("p99, ms", slow, ticks, table, lambda r: 1000 * r.p99_s)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _panel(
    title: str,
    axis: _Axis,
    marks: Sequence[tuple[float, str]],
    table: Mapping[str, Mapping[str, Result]],
    value: Callable[[Result], float],
) -> list[str]:
    bottom = _TOP + _ROW * len(table)
    parts = [_text(axis.left, _TOP - 34, title, weight="bold")]
    for at, label in marks:
        x = axis.x(at)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="{_LINE}"/>')
        parts.append(_text(x, _TOP - 14, label, anchor="middle", colour=_SOFT))
        parts.append(_text(x, bottom + 16, label, anchor="middle", colour=_SOFT))
    for number, line in enumerate(table.values()):
        y = _TOP + _ROW * (number + 0.5)
        found = [(axis.x(max(0.0, value(result))), n) for n, result in enumerate(line.values())]
        low, high = min(found)[0], max(found)[0]
        parts.append(
            f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="#c8c8c8" stroke-width="1.5"/>'
        )
        # Equal results stand one above the other, so that none hides another.
        groups: dict[int, list[tuple[float, int]]] = {}
        for x, n in found:
            groups.setdefault(round(x / 9), []).append((x, n))
        for group in groups.values():
            step = min(6.0, 24 / len(group))
            for place, (x, n) in enumerate(group):
                parts.append(_mark(_STYLES[n], x, y + (place - (len(group) - 1) / 2) * step))
    return parts


def _mark(style: tuple[str, str], x: float, y: float) -> str:
    colour, shape = style
    match shape:
        case "cross":
            path = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
            return f'<path d="{path}" stroke="{colour}" stroke-width="2.2" fill="none"/>'
        case "square":
            return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
        case "diamond":
            return f'<path d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z" fill="{colour}"/>'
        case "ring":
            return (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#ffffff" stroke="{colour}" stroke-width="2"/>'
            )
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = _INK, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
