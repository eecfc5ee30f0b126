"""Command line of the simulator."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from libs.balancing.simulator.contenders import ENVOYS, GROUPS, Contender
from libs.balancing.simulator.plot import svg
from libs.balancing.simulator.report import markdown, plain
from libs.balancing.simulator.run import Result, play
from libs.balancing.simulator.scenarios import PUBLISHED, SCENARIOS, Scenario

_SCENARIOS = (PUBLISHED, *SCENARIOS)

_ABOUT = """\
Compares ways to balance calls over the replicas of a model, in simulated time.

Every scenario sends the same calls through each contender. Contenders are
  envoy   the policies as the gateway runs them: Envoy's load balancers under the weight controller, with outlier
          ejection, reports every 0.5 s and 20 ms from a report to the new weights
  client  the same policies as objects inside the caller, which learn from every call at once
  parts, choices, ejections
          least_request with and without weights and ejection, over more or fewer random choices, and with other
          settings of the ejection
  latencies, ramps
          peak_ewma with other ways from latency to a weight, and weighted with other ways back after a failure

Columns: calls that succeeded; latency in ms of all calls, failed ones until they were given up; and the calls of the
busiest replica over the mean. The same --seed gives the same numbers on any machine.
"""

_EXAMPLES = """\
examples:
  python -m libs.balancing.simulator                                       everything, in about half a minute
  python -m libs.balancing.simulator --scenario stalled --scenario slow    two scenarios
  python -m libs.balancing.simulator --group parts --scenario sinkhole     what each part does
  python -m libs.balancing.simulator --list                                what the scenarios are
  python -m libs.balancing.simulator --group envoy --markdown table.md --svg plot.svg
"""


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m libs.balancing.simulator",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1, help="of the calls and of all choices (default 1)")
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[scenario.name for scenario in _SCENARIOS],
        metavar="NAME",
        help="play this one, instead of all; may be given more than once; --list names them",
    )
    parser.add_argument(
        "--group",
        action="append",
        choices=list(GROUPS),
        help="contenders to compare (default: envoy and client); may be given more than once",
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the plot there (of --group envoy)")
    return parser.parse_args(arguments)


def _chosen(options: argparse.Namespace) -> tuple[list[Scenario], list[Contender]]:
    scenarios = [s for s in _SCENARIOS if options.scenario is None or s.name in options.scenario]
    contenders = [c for group in options.group or ("envoy", "client") for c in GROUPS[group]]
    return scenarios, contenders


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 2 for wrong arguments."""
    options = _arguments(arguments)
    if options.list:
        for scenario in _SCENARIOS:
            print(f"{scenario.name:16}{scenario.what}; {scenario.rate:g} calls/s for {scenario.seconds:g} s")
        return 0
    scenarios, contenders = _chosen(options)
    began = time.perf_counter()
    results: list[Result] = []
    for scenario in scenarios:
        played = [play(scenario, contender, options.seed) for contender in contenders]
        results += played
        print(plain(played), flush=True)
    calls = sum(result.calls for result in results)
    print(f"\n{calls:,} calls in {time.perf_counter() - began:.0f} s, seed {options.seed}")
    if options.markdown:
        options.markdown.write_text(markdown(results))
    if options.svg:
        names = {contender.name for contender in ENVOYS}
        options.svg.write_text(svg([result for result in results if result.contender in names]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
