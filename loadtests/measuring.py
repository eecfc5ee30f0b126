"""A phase from its options: what `run` and `suite` share."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.histogram import Second, Series
from loadtests.results import Phase, Results
from loadtests.running import Place, Recorder, reach, run
from loadtests.scenarios import Scenario
from loadtests.shapes import Users, kept_seconds
from loadtests.users import Load

NEAR_CEILING = 0.8
"""A generator that runs at this share of what it can do measures itself as well as the target."""


def machine() -> str:
    """The processor, its cores and the kernel."""
    name = platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(
                (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name
            )
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def facts(**more: object) -> dict[str, str]:
    """What people want to know about a run."""
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "load from": machine(),
        **{name.replace("_", " "): str(value) for name, value in more.items()},
    }


def measure(
    results: Results,
    target: str,
    address: str,
    scenarios: Sequence[Scenario],
    users: Users,
    seconds: float,
    *,
    weights: Mapping[str, float] | None = None,
    timeout_s: float = 5.0,
    rate: float | None = None,
    warm_up_s: float = 0.0,
    place: Place | None = None,
    ceiling: float | None = None,
) -> list[Phase]:
    """Runs one phase and adds it to the results, a part for each scenario.

    Args:
        target: "gateway", "direct" or "echo".
        weights: of the scenarios; None: equal.
        rate: of a user of the open loop.
        warm_up_s: of the first seconds nothing is kept.
        ceiling: calls a second that the generator can make.

    Raises:
        ValueError: it is too short for anything to be kept.
        RuntimeError: nothing listens there.
    """
    whole = kept_seconds(seconds, warm_up_s)
    reach(address, timeout_s)
    recorder = Recorder()
    shares = [1.0 if weights is None else weights[scenario.name] for scenario in scenarios]
    direct, checked = target == "direct", target != "echo"
    load = Load(address, scenarios, shares, direct, checked, timeout_s, rate, recorder.ended)
    label = f"{target:<8}{'+'.join(scenario.name for scenario in scenarios)}"
    results.locust += run(load, users, recorder, place or Place(), label)
    phases = []
    total = 0.0
    for scenario in scenarios:
        # A second without calls counts too: that is what standing still looks like.
        found = recorder.series[scenario.name].seconds
        kept = Series({at: found.get(at, Second()) for at in whole})
        loop = "closed" if rate is None else "open"
        phases.append(Phase(scenario.name, target, loop, len(whole), kept))
        total += phases[-1].metrics["qps"]
    for phase in phases:
        phase.generator = total / ceiling if ceiling else None
    results.phases += phases
    return phases


def warnings(results: Results) -> list[str]:
    """What to know before believing a run."""
    said = []
    high = [p for p in results.phases if p.target != "echo" and (p.generator or 0.0) > NEAR_CEILING]
    if high:
        names = ", ".join(sorted({f"{phase.scenario} ({phase.target}, {phase.loop} loop)" for phase in high}))
        worst = max(phase.generator or 0.0 for phase in high)
        said.append(
            f"the generator made up to {worst:.0%} of the calls a second that it makes on an echo, so that these rates"
            f" may be its own limit: {names}; distributed load (--workers) goes further"
        )
    full = sum(phase.series.failures["GENERATOR_FULL"] for phase in results.phases)
    if full:
        said.append(f"{full} calls were not made: too many were in flight already")
    return said


def ceiling_of(results: Results, address: str, scenario: Scenario, users: Users, seconds: float) -> float:
    """Calls a second that the generator makes when nothing but itself takes time; adds an echo phase."""
    (phase,) = measure(results, "echo", address, [scenario], users, seconds)
    return phase.metrics["qps"]


def statistics(results: Results) -> list[tuple[str, ...]]:
    """A row for each scenario and target: medians over the rounds."""
    rows: list[tuple[str, ...]] = []
    for scenario in results.scenarios:
        for target in ("echo", "direct", "gateway"):
            found: dict[str, Any] = {
                n: results.metric(scenario, target, n) for n in ("qps", "p50", "p95", "p99", "errors")
            }
            if found["qps"] is None:
                continue
            failures = sum(
                (phase.series.failures for phase in results.of(scenario, target)), start=Series().failures
            )
            rows.append(
                (
                    scenario, target, f"{found['qps']:.0f}", f"{found['p50']:.2f}", f"{found['p95']:.2f}",
                    f"{found['p99']:.2f}", f"{found['errors']:.3%}",
                    ", ".join(f"{count} {status}" for status, count in failures.most_common()),
                )
            )  # fmt: skip
    return rows


STATISTICS_HEAD = ("scenario", "target", "calls/s", "p50 ms", "p95 ms", "p99 ms", "failed", "statuses")
