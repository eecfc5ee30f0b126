"""Budgets: what a scenario may cost its callers, and whether a run kept to it. Pure but for reading the file.

    [ci.torch-mmoe]                                  # a set of budgets, and a scenario
    p50 = "direct.p50 + 2 * echo.p50"                # at most
    qps = "0.5 * direct.qps"                         # at least
    errors = "0 %"                                   # at most
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loadtests.expressions import Limit, parse
from loadtests.results import METRICS, Results

TARGET = "gateway"
"""What budgets are about."""


class BudgetError(ValueError):
    """A mistake in a file of budgets: `file:line: what is wrong`."""


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit of one scenario: `qps` is a minimum, all others are maxima."""

    scenario: str
    metric: str
    limit: Limit


@dataclass(frozen=True, slots=True)
class Row:
    """A budget and what came of it. `measured` or `allowed` is None where a run did not measure it, which does not
    keep a budget."""

    budget: Budget
    measured: float | None
    allowed: float | None

    @property
    def kept(self) -> bool:
        if self.measured is None or self.allowed is None:
            return False
        if not math.isfinite(self.measured) or not math.isfinite(self.allowed):
            return False  # nothing was answered, or nothing of what it is compared with
        if self.budget.metric == "qps":
            return 0 < self.measured >= self.allowed
        return self.measured <= self.allowed

    @property
    def share(self) -> str:
        """How much of what is allowed was measured; empty where that says nothing."""
        if not self.measured or not self.allowed or math.isinf(self.measured) or math.isinf(self.allowed):
            return ""
        return f"{self.measured / self.allowed:.0%}"


def evaluate(budgets: list[Budget], results: Results) -> list[Row]:
    """A row for each budget."""
    rows = []
    for budget in budgets:
        allowed = budget.limit.value(partial(results.metric, budget.scenario))
        rows.append(Row(budget, results.metric(budget.scenario, TARGET, budget.metric), allowed))
    return rows


def read(path: Path, name: str) -> list[Budget]:
    """The budgets of one set.

    Raises:
        BudgetError: the file is wrong, or has no such set.
        OSError: it cannot be read.
    """
    text = path.read_text()
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BudgetError(f"{path}: {error}") from None
    if name not in data or not isinstance(data[name], dict):
        sets = ", ".join(key for key, value in data.items() if isinstance(value, dict)) or "none"
        raise BudgetError(f"{path}: there is no set {name!r} of budgets; it has: {sets}")
    budgets = []
    for scenario, limits in data[name].items():
        if not isinstance(limits, dict):
            raise BudgetError(
                f"{path}:{_line(text, name, '', scenario)}: {name}.{scenario} is no table: write [{name}.SCENARIO]"
            )
        budgets += _limits(path, text, name, scenario, limits)
    if not budgets:
        raise BudgetError(f"{path}: the set {name!r} is empty")
    return budgets


def _limits(path: Path, text: str, name: str, scenario: str, limits: Mapping[str, Any]) -> list[Budget]:
    budgets = []
    for metric, value in limits.items():
        at = f"{path}:{_line(text, name, scenario, metric)}: {name}.{scenario}.{metric}"
        if metric not in METRICS:
            raise BudgetError(f"{at}: no such metric: expected one of {', '.join(METRICS)}")
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise BudgetError(f"{at}: expected a text such as {'5 ms'!r}")
        try:
            limit = parse(value)
        except ValueError as error:
            raise BudgetError(f"{at}: {error}") from None
        if metric == "errors" and limit.relative:
            raise BudgetError(f"{at}: errors have a share of the calls for a limit, such as {'0.1 %'!r}")
        budgets.append(Budget(scenario, metric, limit))
    return budgets


def _line(text: str, name: str, scenario: str, key: str) -> int:
    """Where a key stands: tomllib does not say."""
    table = re.compile(
        rf'\s*\[\s*"?{re.escape(name)}"?\s*'
        + (rf'\.\s*"?{re.escape(scenario)}"?\s*' if scenario else "")
        + r"\]"
    )
    field = re.compile(rf'\s*"?{re.escape(key)}"?\s*=')
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            inside = table.match(line) is not None
        elif inside and field.match(line):
            return number
    return 1


def shown(metric: str, value: float | None) -> str:
    """A metric with its unit."""
    if value is None:
        return "not measured"
    if math.isinf(value):
        return "no answers"
    if metric == "qps":
        return f"{value:.0f} /s"
    if metric == "errors":
        return f"{value:.3%}"
    return f"{value:.2f} ms"


def table(rows: list[Row]) -> str:
    """The rows for a terminal."""
    head = ("scenario", "metric", "measured", "", "budget", "of it", "", "written as")
    lines = [head]
    for row in rows:
        metric = row.budget.metric
        least = metric == "qps"
        share = row.share
        lines.append(
            (
                row.budget.scenario, metric, shown(metric, row.measured), ">=" if least else "<=",
                shown(metric, row.allowed), share, "kept" if row.kept else "BROKEN", row.budget.limit.text,
            )
        )  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    right = (2, 4, 5)
    out = []
    for number, line in enumerate(lines):
        cells = [
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        out.append("  ".join(cells).rstrip())
        if number == 0:
            out.append("  ".join("-" * width for width in widths))
    return "\n".join(out)
