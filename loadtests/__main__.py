"""The `loadtests` command."""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()  # before anything opens a socket or starts a thread: Locust's users are greenlets

import argparse  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from loadtests import check_command, run_command, suite_command, work_command  # noqa: E402
from loadtests.budgets import BudgetError  # noqa: E402
from loadtests.scenarios import ScenarioError  # noqa: E402

DESCRIPTION = "Load on a dl_inference gateway by Locust, and budgets that it has to keep to."
EPILOG = """\
examples:
  loadtests run --gateway 10.0.0.5:8500 --scenario torch-mmoe --users 16 --seconds 60
  loadtests run --gateway 10.0.0.5:8500 --mix mix.toml --rate 500 --shape ramp
  loadtests check results.json --budgets loadtests/budgets.toml --set production --html report.html
  loadtests suite --dist dist        starts the packaged system here, measures it, and checks the `ci` budgets

run one scenario or a mix at a gateway of yours with `run`, and hold the result against budgets with `check`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="loadtests",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (run_command, check_command, suite_command, work_command):
        command.add_command(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except (BudgetError, ScenarioError, OSError, ValueError, RuntimeError) as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
