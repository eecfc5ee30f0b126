"""The report: one HTML file with tables and plots, that refers to nothing outside itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from loadtests.budgets import Row, shown
from loadtests.measuring import STATISTICS_HEAD, statistics, warnings
from loadtests.plots import Line, bars, lines
from loadtests.results import Phase, Results

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1d2430;background:#fff;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid #e3e7ee;text-align:right;white-space:nowrap}
th{font-weight:600;color:#566176}th:first-child,td:first-child,th.t,td.t{text-align:left}
td.wide{white-space:normal}
.kept{color:#19723b}.broken{color:#b3261e;font-weight:600}
.verdict{display:inline-block;padding:.15rem .7rem;border-radius:1rem;color:#fff}
.verdict.kept{background:#19723b;color:#fff}.verdict.broken{background:#b3261e;color:#fff}
.facts{color:#566176;margin:.2rem 0}.warning{background:#fff4e0;border-left:4px solid #d98200;padding:.4rem .8rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:1rem}
figure{margin:0}figcaption{color:#566176;font-size:.9rem}svg{width:100%;height:auto}
.scroll{overflow-x:auto}
"""


def html(results: Results, rows: Sequence[Row]) -> str:
    """The whole page.

    Args:
        rows: budgets and what came of them; may be empty.
    """
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>Load test, {escape(results.facts.get('when', ''))}</title><style>{_STYLE}</style>",
        "<h1>Load test</h1>",
        f"<p class='facts'>{escape(' · '.join(f'{k}: {v}' for k, v in results.facts.items()))}</p>",
    ]
    if rows:
        broken = sum(not row.kept for row in rows)
        word, kind = (
            (f"{broken} of {len(rows)} budgets broken", "broken")
            if broken
            else (
                f"all {len(rows)} budgets kept",
                "kept",
            )
        )
        parts.append(f"<p><span class='verdict {kind}'>{word}</span></p>")
    parts += [f"<p class='warning'>{escape(text)}</p>" for text in warnings(results)]
    if rows:
        parts += ["<h2>Budgets</h2>", _budgets(rows)]
    parts += ["<h2>What was measured</h2>", _table(STATISTICS_HEAD, statistics(results), {0, 1, 7})]
    for scenario in results.scenarios:
        parts += [f"<h2>{escape(scenario)}</h2>", _plots(results, scenario)]
    return "\n".join(parts) + "\n"


def _budgets(rows: Sequence[Row]) -> str:
    cells = []
    for row in rows:
        metric = row.budget.metric
        cells.append(
            (
                row.budget.scenario, metric, shown(metric, row.measured),
                ("≥ " if metric == "qps" else "≤ ") + shown(metric, row.allowed), row.share,
                "kept" if row.kept else "broken", row.budget.limit.text,
            )
        )  # fmt: skip
    head = ("scenario", "metric", "measured", "budget", "of it", "", "written as")
    return _table(head, cells, {0, 1, 5, 6})


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: set[int]) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        out = []
        for number, cell in enumerate(cells):
            kinds = (["t"] if number in texts else []) + ([cell] if cell in ("kept", "broken") else [])
            kind = f" class='{' '.join(kinds)}'" if kinds else ""
            out.append(f"<{tag}{kind}>{escape(cell)}</{tag}>")
        return f"<tr>{''.join(out)}</tr>"

    return f"<div class='scroll'><table>{row('th', head)}{''.join(row('td', cells) for cells in rows)}</table></div>"


def _plots(results: Results, scenario: str) -> str:
    """Response times and rates, second by second, of all rounds one behind the other."""
    colours = {"direct": "#7a8699", "gateway": "#1f5fbf"}
    times: list[Line] = []
    rates: list[Line] = []
    for target, colour in colours.items():
        phases = results.of(scenario, target)
        if not phases:
            continue
        times.append(Line(f"{target} p50", colour, _each(phases, 0.5)))
        times.append(Line(f"{target} p99", colour, _each(phases, 0.99), dashed=True))
        rates.append(Line(target, colour, [(at, float(n)) for at, n in _rates(phases)]))
    return (
        "<div class='plots'>"
        f"<figure>{lines(times, 'ms')}<figcaption>response times, by second of load</figcaption></figure>"
        f"<figure>{bars(rates, 'answers/s')}<figcaption>answers a second</figcaption></figure></div>"
    )


def _each(phases: Sequence[Phase], share: float) -> list[tuple[float, float]]:
    points = []
    at = 0
    for phase in phases:
        for _, second in sorted(phase.series.seconds.items()):
            if second.times.total:
                points.append((float(at), second.times.percentile(share)))
            at += 1
    return points


def _rates(phases: Sequence[Phase]) -> list[tuple[float, int]]:
    seconds = [second for phase in phases for _, second in sorted(phase.series.seconds.items())]
    return [(float(at), second.times.total) for at, second in enumerate(seconds)]
