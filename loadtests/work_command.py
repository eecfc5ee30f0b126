"""`loadtests work`: makes load for a `loadtests run --workers N` elsewhere. Give it the same traffic options."""

from __future__ import annotations

import argparse

from loadtests.options import add_traffic, address, host_port
from loadtests.running import Place, Recorder, prepare, work
from loadtests.scenarios import SCENARIOS, make, weights
from loadtests.users import Load


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("work", help="make load for a run on another machine", description=__doc__)
    parser.add_argument(
        "--master", type=host_port, required=True, metavar="HOST:PORT", help="the run's --listen"
    )
    parser.add_argument("--gateway", type=address, required=True, metavar="HOST:PORT", help="what is called")
    parser.add_argument("--direct", action="store_true", help="HOST:PORT is a model server, not a gateway")
    add_traffic(parser)
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    mix = weights(options.mix) if options.mix else dict.fromkeys(options.scenario or SCENARIOS, 1.0)
    scenarios = make(list(mix), options.models)
    prepare()
    recorder = Recorder()
    rate = options.rate / options.users if options.rate else None
    load = Load(
        options.gateway,
        scenarios,
        list(mix.values()),
        options.direct,
        True,
        options.timeout,
        rate,
        recorder.ended,
    )
    work(load, recorder, Place(master=options.master))
    return 0
