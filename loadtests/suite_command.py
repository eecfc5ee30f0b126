"""`loadtests suite`: starts the packaged system on this machine, measures it, and checks budgets.

In rounds, one after the other: an echo (what the generator itself takes), a model server called directly, and the
same through the gateway; each in the open loop for the times, and in the closed loop for the rate. Budgets that compare
them hold on any machine, however busy: what disturbs one disturbs all.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.quickstart.processes import Process, Processes
from loadtests import budgets
from loadtests.check_command import BUDGETS, judge
from loadtests.echo import echo_server
from loadtests.measuring import STATISTICS_HEAD, ceiling_of, facts, measure, statistics
from loadtests.options import print_table
from loadtests.results import Results
from loadtests.running import prepare
from loadtests.scenarios import SCENARIOS, Scenario, make
from loadtests.shapes import steady

TASKS = {"textcnn": 69, "half_plus_two": 70, "mmoe": 111, "digits": 39}
INSTANCES = 2
OPEN_S, CLOSED_S = 2.0, 1.0
RATE_SHARE = 0.08
"""Of what the generator can do: calls in the open loop, few enough for their times not to be the generator's."""
WARM_UP_S = 1.0
"""Of the first round, for each of its phases: Python's first calls of a model are slow."""
USERS = 8
TIMEOUT_MS = 5000


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "suite",
        help="measure the packaged system on this machine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument(
        "--models", type=Path, default=Path("var/models"), help="example models [%(default)s]"
    )
    parser.add_argument(
        "--scenario", choices=list(SCENARIOS), nargs="+", default=list(SCENARIOS), help="[all]"
    )
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--users", type=int, default=USERS, help="of the closed loop [%(default)s]")
    parser.add_argument("--budgets", type=Path, default=BUDGETS, help="[%(default)s]")
    parser.add_argument("--set", default="ci", help="of the budgets in that file [%(default)s]")
    parser.add_argument("--out", type=Path, default=Path("var/loadtests/suite"), help="folder [%(default)s]")
    parser.add_argument(
        "--slowed-ms",
        type=float,
        default=0.0,
        help="hold calls back that long behind the gateway; budgets must notice",
    )
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    wanted = budgets.read(options.budgets, options.set)
    scenarios = make(options.scenario, options.models)
    prepare()
    results = Results(
        facts(
            rounds=options.rounds,
            **({"slowed_by": f"{options.slowed_ms:g} ms"} if options.slowed_ms else {}),
        )
    )
    with system(options, scenarios) as (servers, gateway), echo_server() as echo:
        suite = _Suite(results, scenarios, servers, gateway, echo, options.users)
        rate: float | None = None
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            rate = suite.round(rate, WARM_UP_S if number == 0 else 0.0)
        results.facts["load"] = (
            f"{rate:.0f} calls/s in the open loop, {options.users} users in the closed one"
        )
    results.write(options.out / "results.json")
    print()
    print_table(STATISTICS_HEAD, statistics(results))
    print()
    return judge(results, wanted, options.out / "report.html")


@dataclass(frozen=True)
class _Suite:
    """What every round measures."""

    results: Results
    scenarios: list[Scenario]
    servers: dict[str, str]
    gateway: str
    echo: str
    users: int

    def round(self, rate: float | None, warm_up_s: float) -> float:
        """Measures everything once; the rate of the open loop, which is the first round's."""
        first = self.scenarios[0]
        ceiling = ceiling_of(self.results, self.echo, first, steady(self.users, CLOSED_S), CLOSED_S)
        rate = rate or RATE_SHARE * ceiling
        self._measure("echo", self.echo, first, OPEN_S, rate, 0.0, ceiling)
        for scenario in self.scenarios:
            for loop_rate, seconds in ((rate, OPEN_S), (None, CLOSED_S)):
                for target, address in (("direct", self.servers[scenario.model]), ("gateway", self.gateway)):
                    self._measure(target, address, scenario, seconds, loop_rate, warm_up_s, ceiling)
        return rate

    def _measure(
        self,
        target: str,
        address: str,
        scenario: Scenario,
        seconds: float,
        rate: float | None,
        warm_up_s: float,
        ceiling: float,
    ) -> None:
        length = seconds + warm_up_s
        measure(
            self.results, target, address, [scenario], steady(self.users, length), length,
            rate=rate / self.users if rate is not None else None, warm_up_s=warm_up_s, ceiling=ceiling,
        )  # fmt: skip


@contextlib.contextmanager
def system(options: argparse.Namespace, scenarios: list[Scenario]) -> Iterator[tuple[dict[str, str], str]]:
    """The packaged services: the address of one server of each model, and the gateway's."""
    any_port = ("--host", "127.0.0.1", "--port", "0")
    instances: dict[str, list[Process]] = {}
    options.out.mkdir(parents=True, exist_ok=True)
    with Processes(options.dist, options.out / "logs") as processes:
        for model in dict.fromkeys(scenario.model for scenario in scenarios):
            folder = str((options.models / model).resolve())
            torch = model in ("mmoe", "digits")
            pex = "torch-worker-cpu" if torch else "tf-serving"
            what = (
                ("--model-dir", folder)
                if torch
                else ("--model-name", f"{model}-{TASKS[model]}", "--model-base-path", folder)
            )
            instances[model] = [
                processes.start(f"{model}-{number}", pex, "serve", *what, *any_port)
                for number in range(1, INSTANCES + 1)
            ]
        servers = {model: [process.wait_ready() for process in of] for model, of in instances.items()}
        lines = []
        for model, addresses in servers.items():
            behind = [_slowed(processes, at, options.slowed_ms) for at in addresses]
            lines.append(f"{TASKS[model]}={TIMEOUT_MS},{','.join(behind)}\n")
        nodes = options.out / "nodes.txt"
        nodes.write_text("".join(lines))
        gateway = processes.start(
            "gateway",
            "gateway",
            "serve",
            "--nodes",
            str(nodes),
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        )
        gateway.wait_ready()
        time.sleep(1.0)  # for the gateway's first look at the instances' health
        print(f"{len(servers)} models, {INSTANCES} instances each, and a gateway are up", file=sys.stderr)
        yield {model: addresses[0] for model, addresses in servers.items()}, gateway.address


def _slowed(processes: Processes, address: str, delay_ms: float) -> str:
    if not delay_ms:
        return address
    proxy = processes.run(
        f"delay-{address}", sys.executable, "-m", "loadtests.delay", address, "--ms", str(delay_ms)
    )
    return proxy.wait_ready()
