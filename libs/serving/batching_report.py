"""What the batching policies cost and gain, in tables and a picture: `python -m libs.serving.batching_report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from libs.serving.batching import BatchPolicy, BatchQueue
from libs.serving.batching_simulation import (
    FixedDelay,
    LeastOnly,
    Model,
    NewestFirst,
    Outcome,
    Queue,
    RowsOnly,
    bursts,
    poisson,
    simulate,
)

QUICK = Model("0.5 ms + 5 µs a row", 5e-6, 5e-4)
MEDIUM = Model("20 ms + 0.5 ms a row", 5e-4, 2e-2)
LINEAR = Model("2 ms + 100 ms a row, 8 rows", 0.1, 2e-3, 8)
MODELS = (QUICK, MEDIUM, LINEAR)
# Long enough for a thousand runs and more.
SECONDS = {QUICK.name: 3.0, MEDIUM.name: 60.0, LINEAR.name: 600.0}
MAX_QUEUE = 1024

Make = Callable[[Model], Queue]


def _policy(model: Model, max_delay_ms: float | None = 0.0) -> BatchPolicy:
    return BatchPolicy(model.max_batch_size, MAX_QUEUE, max_delay_ms)


DELAYS: Mapping[str, Make] = {
    "no delay": lambda model: BatchQueue(_policy(model)),
    "fixed 1 ms": lambda model: FixedDelay(_policy(model), 0.001),
    "fixed 5 ms": lambda model: FixedDelay(_policy(model), 0.005),
    "adaptive": lambda model: BatchQueue(_policy(model, None)),
}
BOUNDS: Mapping[str, Make] = {
    "rows only": lambda model: RowsOnly(_policy(model)),
    "drop the hopeless": lambda model: LeastOnly(_policy(model)),
    "the same, newest first": lambda model: NewestFirst(_policy(model)),
    "refuse the late (ours)": lambda model: BatchQueue(_policy(model, None)),
}
CALLERS = (1, 2, 4, 8, 16, 32, 64)
LOADS = (0.5, 0.7, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)


def delays(model: Model, make: Make, *, load: float = 0.0, burst: int = 0, callers: int = 0) -> Outcome:
    """A queue under callers who wait for their answers, or at a load, a share of the model's capacity."""
    rate = load * model.capacity
    arrivals = None if callers else bursts(rate, burst) if burst else poisson(rate)
    return simulate(make(model), model, seconds=SECONDS[model.name], arrivals=arrivals, callers=callers)


def overload(model: Model, make: Make, load: float) -> Outcome:
    """A queue at a load of requests that have ten times the least time of a call, and 200 ms at least."""
    deadline_s = max(0.2, 10 * (model.base_s + model.row_s))
    seconds = SECONDS[model.name] / 2
    return simulate(
        make(model), model, seconds=seconds, arrivals=poisson(load * model.capacity), deadline_s=deadline_s
    )


def delay_tables() -> str:
    """Markdown: each model under each traffic with each delay."""
    text = ""
    for model in MODELS:
        text += f"\n**{model.name}**, capacity {model.capacity:.0f} rows/s\n\n"
        text += "| traffic | " + " | ".join(DELAYS) + " |\n|---|" + "---:|" * len(DELAYS) + "\n"
        traffic = {f"{n} callers" if n > 1 else "1 caller": {"callers": n} for n in (1, 2, 16, 64)}
        settings: dict[str, dict[str, float]] = {name: dict(each) for name, each in traffic.items()}
        settings |= {f"strangers, load {load}": {"load": load} for load in (0.1, 0.5, 0.9)}
        settings |= {f"bursts of 16, load {load}": {"load": load, "burst": 16} for load in (0.1, 0.5)}
        for name, each in settings.items():
            cells = []
            for make in DELAYS.values():
                found = delays(model, make, **each)  # type: ignore[arg-type]
                cells.append(
                    f"{found.rate:.0f} · {_ms(found.quantile_ms(0.5))} · {_ms(found.quantile_ms(0.99))}"
                    f" · {_ms(found.busy_ms_per_request)}"
                )
            text += f"| {name} | " + " | ".join(cells) + " |\n"
    return text


def overload_table() -> str:
    """Markdown: goodput, late answers and median latency at each load with each bound."""
    text = (
        "| model, deadline | load | " + " | ".join(BOUNDS) + " |\n|---|---:|" + "---:|" * len(BOUNDS) + "\n"
    )
    for model in (MEDIUM, LINEAR):
        for load in (0.9, 1.2, 3.0):
            cells = []
            for make in BOUNDS.values():
                found = overload(model, make, load)
                late = (found.rate - found.goodput) / model.capacity
                cells.append(
                    f"{found.goodput / model.capacity:.2f} · {late:.2f} · {_ms(found.quantile_ms(0.5))}"
                )
            deadline_ms = 1e3 * max(0.2, 10 * (model.base_s + model.row_s))
            text += f"| {model.name}, {deadline_ms:.0f} ms | {load:g} | " + " | ".join(cells) + " |\n"
    return text


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


_COLOURS = ("#888", "#d08a2e", "#7a5cc0", "#1f77b4")
_WIDTH, _HEIGHT, _LEFT, _TOP = 330, 220, 50, 40


def _panel(
    x: int, title: str, ticks: tuple[str, ...], curves: Mapping[str, list[float]], top: float, unit: str
) -> str:
    """One diagram: a line a curve over evenly spaced ticks, from 0 to top."""

    def at(index: int, value: float) -> str:
        return f"{x + _LEFT + index * _WIDTH / (len(ticks) - 1):.1f},{_TOP + _HEIGHT * (1 - value / top):.1f}"

    parts = [f'<text x="{x + _LEFT}" y="22" class="title">{title}</text>']
    for step in range(5):
        value = top * step / 4
        y = _TOP + _HEIGHT * (1 - step / 4)
        parts.append(
            f'<line x1="{x + _LEFT}" x2="{x + _LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        )
        parts.append(f'<text x="{x + _LEFT - 6}" y="{y + 4:.1f}" class="end">{value:.2g}</text>')
    for index, tick in enumerate(ticks):
        place = x + _LEFT + index * _WIDTH / (len(ticks) - 1)
        parts.append(f'<text x="{place:.1f}" y="{_TOP + _HEIGHT + 16}" class="mid">{tick}</text>')
    parts.append(f'<text x="{x + _LEFT + _WIDTH / 2}" y="{_TOP + _HEIGHT + 32}" class="mid">{unit}</text>')
    for number, (name, values) in enumerate(curves.items()):
        points = " ".join(at(index, min(value, top)) for index, value in enumerate(values))
        colour = _COLOURS[number]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = _TOP + _HEIGHT + 52 + 16 * number
        parts.append(
            f'<line x1="{x + _LEFT}" x2="{x + _LEFT + 22}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(f'<text x="{x + _LEFT + 28}" y="{y + 4}">{name}</text>')
    return "\n".join(parts)


def picture() -> str:
    """SVG: throughput of callers who wait, by delay; goodput by load, by bound. The medium model."""
    rates = {
        name: [delays(MEDIUM, make, callers=callers).rate for callers in CALLERS]
        for name, make in DELAYS.items()
    }
    still = rates["no delay"]
    gains = {
        name: [value / base for value, base in zip(each, still, strict=True)] for name, each in rates.items()
    }
    goodput = {
        name: [overload(MEDIUM, make, load).goodput / MEDIUM.capacity for load in LOADS]
        for name, make in BOUNDS.items()
    }
    right = _LEFT + _WIDTH + 30
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * right + 20} {_TOP + _HEIGHT + 112}" '
            'font-family="sans-serif" font-size="11">',
            "<style>.title{font-size:13px;font-weight:bold}.grid{stroke:#ddd}.end{text-anchor:end}"
            ".mid{text-anchor:middle}</style>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            _panel(
                0, "Requests/s, as a multiple of no delay", tuple(map(str, CALLERS)), gains, 2.0, "callers"
            ),
            _panel(
                right,
                "Answers in time, share of capacity",
                tuple(f"{load:g}" for load in LOADS),
                goodput,
                1.0,
                "load",
            ),
            "</svg>\n",
        ]
    )


def main() -> None:
    """Prints the tables; writes the picture where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the picture there")
    options = parser.parse_args()
    print("A cell: requests/s · p50 ms · p99 ms · ms of the model a request")
    print(delay_tables())
    print("A cell: in time as a share of the capacity · late · p50 ms\n")
    print(overload_table())
    if options.svg is not None:
        options.svg.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
