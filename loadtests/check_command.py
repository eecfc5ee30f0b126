"""`loadtests check`: holds what a run found against budgets. Exit status 1 when one is broken."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from loadtests import budgets, report
from loadtests.measuring import warnings
from loadtests.results import Results

HERE = Path("loadtests/budgets.toml")
BUDGETS = HERE if HERE.exists() else Path(__file__).with_name("budgets.toml")
"""The checkout's, as it is edited there; elsewhere those that came with the command."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("check", help="hold results against budgets", description=__doc__)
    parser.add_argument("results", type=Path, help="what `loadtests run` kept")
    parser.add_argument("--budgets", type=Path, default=BUDGETS, help="[%(default)s]")
    parser.add_argument("--set", default="production", help="of the budgets in that file [%(default)s]")
    parser.add_argument("--html", type=Path, help="write a report: one file with tables and plots")
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    wanted = budgets.read(options.budgets, options.set)
    return judge(Results.read(options.results), wanted, options.html)


def judge(results: Results, wanted: list[budgets.Budget], html: Path | None) -> int:
    """Prints the table; the exit status. Budgets of scenarios that a run left out do not count."""
    rows = budgets.evaluate([budget for budget in wanted if budget.scenario in results.scenarios], results)
    print(budgets.table(rows))
    for text in warnings(results):
        print(f"warning: {text}", file=sys.stderr)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(report.html(results, rows))
        print(f"\nreport: {html}")
    broken = [row for row in rows if not row.kept]
    if not rows:
        print("no budget is about what was measured", file=sys.stderr)
        return 1
    print(f"\n{len(rows) - len(broken)} of {len(rows)} budgets kept")
    return 1 if broken else 0
