"""`loadtests run`: load on a gateway that is there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from loadtests import report
from loadtests.echo import echo_server
from loadtests.measuring import STATISTICS_HEAD, ceiling_of, facts, measure, statistics, warnings
from loadtests.options import add_traffic, address, host_port, print_table
from loadtests.results import Results
from loadtests.running import Place, prepare
from loadtests.scenarios import SCENARIOS, make, weights
from loadtests.shapes import SHAPES, kept_seconds, steady

CEILING_S = 3.0


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="put load on a gateway and keep what came of it",
        description=__doc__,
        epilog="The closed loop finds out what a system can do; the open loop (--rate) what callers feel who do not"
        " wait for each other. In it a call's time counts from when it was due.",
    )
    parser.add_argument("--gateway", type=address, required=True, metavar="HOST:PORT", help="what is called")
    parser.add_argument("--direct", action="store_true", help="HOST:PORT is a model server, not a gateway")
    add_traffic(parser)
    parser.add_argument(
        "--shape", choices=list(SHAPES), default="steady", help="of the load over time [%(default)s]"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="[%(default)g]")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds that are not kept [%(default)g]")
    parser.add_argument(
        "--workers", type=int, default=0, help="distributed: wait for so many `loadtests work`"
    )
    parser.add_argument(
        "--listen",
        type=host_port,
        default=("127.0.0.1", 5557),
        help="for workers, host:port [127.0.0.1:5557]",
    )
    parser.add_argument(
        "--no-ceiling", action="store_true", help="do not measure first what the generator can do"
    )
    parser.add_argument("--out", type=Path, default=Path("var/loadtests/results.json"), help="[%(default)s]")
    parser.add_argument("--html", type=Path, help="write a report as well")
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    kept_seconds(options.seconds, options.warm_up)  # says what is wrong before anything is measured
    mix = weights(options.mix) if options.mix else dict.fromkeys(options.scenario or SCENARIOS, 1.0)
    scenarios = make(list(mix), options.models)
    place = Place(options.workers, options.listen)
    prepare()
    results = Results(
        facts(
            target=options.gateway,
            shape=f"{options.shape}, {options.seconds:g} s",
            load=(
                f"{options.rate:g} calls/s, open loop"
                if options.rate
                else f"{options.users} users, closed loop"
            ),
            workers=options.workers or "this process",
        )
    )
    ceiling = None
    if not options.workers and not options.no_ceiling:
        with echo_server() as echo:
            ceiling = ceiling_of(results, echo, scenarios[0], steady(options.users, CEILING_S), CEILING_S)
    measure(
        results,
        "direct" if options.direct else "gateway",
        options.gateway,
        scenarios,
        SHAPES[options.shape](options.users, options.seconds),
        options.seconds,
        weights=mix,
        timeout_s=options.timeout,
        rate=options.rate / options.users if options.rate else None,
        warm_up_s=options.warm_up,
        place=place,
        ceiling=ceiling,
    )
    results.write(options.out)
    print_table(STATISTICS_HEAD, statistics(results))
    for text in warnings(results):
        print(f"warning: {text}", file=sys.stderr)
    if options.html:
        options.html.write_text(report.html(results, []))
    print(f"\nkept in {options.out}; `loadtests check {options.out}` holds it against budgets")
    return 0
