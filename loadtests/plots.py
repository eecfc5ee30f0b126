"""Small line plots as SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 26


@dataclass(frozen=True, slots=True)
class Line:
    """Points in order of x."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def lines(all_lines: Sequence[Line], unit: str) -> str:
    """Lines over seconds, from 0 up."""
    return _plot(all_lines, unit, filled=False)


def bars(all_lines: Sequence[Line], unit: str) -> str:
    """The same as steps, each filled to the ground."""
    return _plot(all_lines, unit, filled=True)


def nice(highest: float) -> float:
    """The top of an axis: a round number that is not below the highest value."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= highest * 0.999999)


def _plot(all_lines: Sequence[Line], unit: str, *, filled: bool) -> str:
    values = [y for line in all_lines for _, y in line.points]
    longest = max((x for line in all_lines for x, _ in line.points), default=0.0) + (1.0 if filled else 0.0)
    top = nice(max(values, default=0.0))

    def x_of(x: float) -> float:
        return LEFT + x / max(longest, 1.0) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    out = [
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' font-family='system-ui,sans-serif' font-size='11'>"
    ]
    for part in range(5):
        value = top * part / 4
        y = y_of(value)
        out.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}' stroke='#e3e7ee'/>")
        out.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end' fill='#566176'>{value:g}</text>")
    every = nice(max(longest, 1.0) / 6)
    for tick in range(int(longest / every) + 1):
        x = x_of(tick * every)
        out.append(
            f"<text x='{x:.1f}' y='{HEIGHT - 8}' text-anchor='middle' fill='#566176'>{tick * every:g} s</text>"
        )
    for line in all_lines:
        if filled:
            steps = [(x + more, y) for x, y in line.points for more in (0.0, 1.0)]
            corners = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in steps)
            ground = f"{x_of(0):.1f},{y_of(0):.1f} {corners} {x_of(longest):.1f},{y_of(0):.1f}"
            out.append(f"<polygon points='{ground}' fill='{line.colour}' fill-opacity='.15'/>")
        else:
            corners = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        dash = " stroke-dasharray='5 3'" if line.dashed else ""
        out.append(
            f"<polyline points='{corners}' fill='none' stroke='{line.colour}' stroke-width='1.6'{dash}/>"
        )
    x = LEFT
    for line in all_lines:
        dash = " stroke-dasharray='5 3'" if line.dashed else ""
        out.append(
            f"<line x1='{x}' x2='{x + 18}' y1='12' y2='12' stroke='{line.colour}' stroke-width='2'{dash}/>"
        )
        out.append(f"<text x='{x + 23}' y='16' fill='#1d2430'>{escape(line.name)}</text>")
        x += 34 + 6 * len(line.name)
    out.append(
        f"<text x='{WIDTH - RIGHT}' y='16' text-anchor='end' fill='#566176'>{escape(unit)}</text></svg>"
    )
    return "".join(out)
