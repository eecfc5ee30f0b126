"""What a run found, and the file it is kept in: pure but for reading and writing that file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.histogram import Series

FORMAT = 1
METRICS = ("p50", "p95", "p99", "qps", "errors")


@dataclass
class Phase:
    """One stretch of load of one kind on one scenario.

    Attributes:
        scenario: a name of `scenarios`.
        target: what was called: "gateway", "direct" or "echo".
        loop: "closed" or "open".
        seconds: how long.
        series: what came of it.
        generator: the share of the ceiling that the generator ran at: its rate, by that on an echo; None if unknown.
    """

    scenario: str
    target: str
    loop: str
    seconds: float
    series: Series
    generator: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """p50, p95, p99 of the answers in milliseconds, infinite where nothing was answered; answers a second; share
        of calls that failed."""
        times, failed = self.series.times, self.series.failures.total()
        calls = times.total + failed

        def of(share: float) -> float:
            return times.percentile(share) if times.total else math.inf

        return {
            "p50": of(0.50),
            "p95": of(0.95),
            "p99": of(0.99),
            "qps": times.total / self.seconds if self.seconds else 0.0,
            "errors": failed / calls if calls else 1.0,
        }


@dataclass
class Results:
    """Every phase of a run, in order; rounds repeat them.

    Attributes:
        facts: about the machine and the run, for people.
        locust: Locust's own statistics, as it serialises them.
    """

    facts: dict[str, str] = field(default_factory=dict)
    phases: list[Phase] = field(default_factory=list)
    locust: list[dict[str, Any]] = field(default_factory=list)

    def of(self, scenario: str, target: str) -> list[Phase]:
        """The phases of a scenario on a target; the echo is the same for all."""
        return [p for p in self.phases if p.target == target and (target == "echo" or p.scenario == scenario)]

    def _telling(self, scenario: str, target: str, metric: str) -> list[Phase]:
        """Those that tell about a metric: callers that wait for each other find out the rate, and hide how long calls
        take. Where a run has one loop alone it has to do for both."""
        phases = self.of(scenario, target)
        loop = "closed" if metric == "qps" else "open"
        return [phase for phase in phases if phase.loop == loop] or phases

    def metric(self, scenario: str, target: str, name: str) -> float | None:
        """A metric's median over the rounds, which one disturbance does not move; failures count over all. None when
        there was no such phase."""
        phases = self._telling(scenario, target, name)
        if not phases:
            return None
        if name == "errors":
            phases = self.of(scenario, target)
            failed = sum(phase.series.failures.total() for phase in phases)
            calls = failed + sum(phase.series.times.total for phase in phases)
            return failed / calls if calls else 1.0
        return median(phase.metrics[name] for phase in phases)

    @property
    def scenarios(self) -> list[str]:
        """Those that were measured, in order."""
        return list(dict.fromkeys(phase.scenario for phase in self.phases if phase.target != "echo"))

    def write(self, path: Path) -> None:
        data = {
            "format": FORMAT,
            "facts": self.facts,
            "phases": [
                {
                    "scenario": phase.scenario,
                    "target": phase.target,
                    "loop": phase.loop,
                    "seconds": phase.seconds,
                    "generator": phase.generator,
                    "series": phase.series.dump(),
                }
                for phase in self.phases
            ],
            "locust": self.locust,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data))

    @classmethod
    def read(cls, path: Path) -> Results:
        """What was written.

        Raises:
            ValueError: the file holds no results; the message says what to do.
            OSError: it cannot be read.
        """
        try:
            data = json.loads(path.read_text())
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}, expected {FORMAT}")
            phases = [
                Phase(
                    p["scenario"],
                    p["target"],
                    p["loop"],
                    p["seconds"],
                    Series.load(p["series"]),
                    p["generator"],
                )
                for p in data["phases"]
            ]
            return cls(data["facts"], phases, data["locust"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} holds no results of `loadtests run` ({error})") from None
