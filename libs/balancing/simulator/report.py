"""Results as tables: one a measure, scenarios down, contenders across."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libs.balancing.simulator.run import Result


@dataclass(frozen=True, slots=True)
class Measure:
    """`text` formats a value; the best of a row is the least by `cost`."""

    title: str
    cost: Callable[[Result], float]
    text: Callable[[Result], str]


MEASURES = (
    Measure("success, %", lambda r: -r.success, lambda r: f"{100 * r.success:.2f}"),
    Measure("p50, ms", lambda r: r.p50_s, lambda r: _ms(r.p50_s)),
    Measure("p99, ms", lambda r: r.p99_s, lambda r: _ms(r.p99_s)),
    Measure("p99.9, ms", lambda r: r.p999_s, lambda r: _ms(r.p999_s)),
    Measure("spread, calls of the busiest replica / mean", lambda r: r.spread, lambda r: f"{r.spread:.2f}"),
)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def rows(results: Sequence[Result]) -> dict[str, dict[str, Result]]:
    """By scenario, then contender, in the order they were played."""
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        found.setdefault(result.scenario, {})[result.contender] = result
    return found


def plain(results: Sequence[Result]) -> str:
    """For a terminal."""
    lines = []
    for scenario, found in rows(results).items():
        lines.append(f"\n{scenario}")
        lines.append(f"  {'':32}{'success':>9}{'p50':>8}{'p99':>8}{'p99.9':>8}{'spread':>8}")
        for name, r in found.items():
            lines.append(
                f"  {name:32}{100 * r.success:8.3f}%{_ms(r.p50_s):>8}{_ms(r.p99_s):>8}{_ms(r.p999_s):>8}"
                f"{r.spread:8.2f}"
            )
    return "\n".join(lines)


def markdown(results: Sequence[Result]) -> str:
    """One table a measure; the best of each row is bold, and so is what is within 0.5 % of it."""
    parts = []
    for measure in MEASURES:
        found = rows(results)
        names = list(dict.fromkeys(name for line in found.values() for name in line))
        table = [f"**{measure.title}**", "", f"| | {' | '.join(names)} |", f"|---{'|---:' * len(names)}|"]
        for scenario, line in found.items():
            best = min(measure.cost(result) for result in line.values())
            cells = []
            for name in names:
                text = measure.text(line[name]) if name in line else ""
                good = name in line and measure.cost(line[name]) <= best + 0.005 * abs(best)
                if measure is MEASURES[0]:  # half a percent is much of a success rate
                    good = name in line and text == f"{-100 * best:.2f}"
                cells.append(f"**{text}**" if good else text)
            table.append(f"| {scenario} | {' | '.join(cells)} |")
        parts.append("\n".join(table))
    return "\n\n".join(parts) + "\n"
