"""What many tasks cost: gateways with 1 to 1,000 tasks of 4 instances each, side by side: time to load, memory, CPU per
request, and the time from an edit of the node file until the traffic has moved."""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks import load, servers
from benchmarks.servers import TASK, WPAI_PREDICT, Server

EPILOG = """\
All tasks have the same 4 echo backends (nghttpd), so each gateway checks 4 instances a task. CPU is that of Envoy and
the control plane. `idle` is what they take without a call (health checks, load reports), in milliseconds a second:
before the first call, and once every task was called, since those are checked more often; the figures per request are
without it. `one task`: h2load on one of them. `all in turn`: a Python client, fewer calls a second, each for the next
task; threads sleep and wake more often, so compare that column with itself only. Memory is resident, after the load.
`edit`: the median of some edits that move one task to other instances, until an answer names one of those.
Ends with status 1 when the most tasks cost more than 1.1 times a request of the fewest, or an edit took over a second.
"""

COST_BAR = 1.1
EDIT_BAR_S = 1.0
INSTANCE = "x-dl-instance"


@dataclass(slots=True)
class Gateway:
    """A gateway with so many tasks, and what was measured of it."""

    tasks: int
    server: Server
    nodes: Path
    load_s: float
    single_us: list[float] = field(default_factory=list)
    turns_us: list[float] = field(default_factory=list)
    fresh_idle: float = 0.0  # CPU seconds a second, before any call
    idle: float = 0.0  # the same, as last measured
    idle_control: float = 0.0  # the control plane's part of it
    edits_s: list[float] = field(default_factory=list)

    @property
    def envoy_mib(self) -> float:
        return load.memory_bytes(load.find_child(self.server.pid, "envoy")) / 2**20

    @property
    def control_mib(self) -> float:
        envoy = load.find_child(self.server.pid, "envoy")
        own = (pid for pid in load.process_tree(self.server.pid) if pid != envoy)
        return sum(load.memory_bytes(pid) for pid in own) / 2**20


def table(count: int, backends: list[Server], moved: bool = False) -> str:
    """A node file of tasks TASK to TASK + count - 1. `moved`: the first one has only the last backend."""
    everyone = ",".join(backend.address for backend in backends)
    lines = [f"{task}=5000,{everyone}" for task in range(TASK, TASK + count)]
    if moved:
        lines[0] = f"{TASK}=5000,{backends[-1].address}"
    return "\n".join(lines) + "\n"


def start(stack: contextlib.ExitStack, options: argparse.Namespace, backends: list[Server]) -> list[Gateway]:
    found = []
    for count in options.tasks:
        begun = time.monotonic()
        context = servers.serving(options.dist, table(count, backends), f"gateway-{count}")
        server, nodes = stack.enter_context(context)
        found.append(Gateway(count, server, nodes, time.monotonic() - begun))
        print(f"  {count} tasks: serving after {found[-1].load_s:.1f} s", file=sys.stderr, flush=True)
    return found


def single(gateway: Gateway, seconds: int, warm_up_s: int) -> float:
    """CPU microseconds of the gateway per call, beside its idle work, with one task called."""
    body = servers.message(256, TASK + gateway.tasks // 2)
    servers.check(gateway.server.address, body)
    result = load.run(
        gateway.server.address, WPAI_PREDICT, body, gateway.server.pid, 16, seconds, warm_up_s=warm_up_s
    )
    return result.cpu_us - gateway.idle / result.rate * 1e6


def in_turn(gateway: Gateway, calls: int) -> float:
    """The same with all of its tasks called one after the other. Raises grpc.RpcError."""
    bodies = [servers.message(256, task) for task in range(TASK, TASK + gateway.tasks)]
    with grpc.insecure_channel(gateway.server.address) as channel:
        stub = channel.unary_unary(WPAI_PREDICT)
        for body in bodies:  # connections to the backends
            stub(body, timeout=10)
        before, begun = load.cpu_seconds(gateway.server.pid), time.monotonic()
        waiting: list[grpc.Future] = []
        for number in range(calls):
            waiting.append(stub.future(bodies[number % len(bodies)], timeout=10))
            if len(waiting) == 16:
                waiting.pop(0).result()
        for future in waiting:
            future.result()
        spent = load.cpu_seconds(gateway.server.pid) - before
        return (spent - gateway.idle * (time.monotonic() - begun)) / calls * 1e6


def edit(gateway: Gateway, backends: list[Server], moved: bool) -> float:
    """Seconds from an edit until a call is answered by an instance that only the new table allows."""
    body = servers.message(256)
    last = backends[-1].address
    with grpc.insecure_channel(gateway.server.address) as channel:
        stub = channel.unary_unary(WPAI_PREDICT)
        stub(body, timeout=10)
        fresh = gateway.nodes.with_suffix(".new")
        fresh.write_text(table(gateway.tasks, backends, moved))
        begun = time.monotonic()
        fresh.rename(gateway.nodes)
        run = 0
        while time.monotonic() < begun + 30.0:
            _, call = stub.with_call(body, timeout=10)
            there = dict(call.initial_metadata())[INSTANCE] == last
            # Moved: a row of answers from the one instance that is left, since before it was one of four.
            run = run + 1 if there == moved else 0
            if run == (20 if moved else 1):
                return time.monotonic() - begun
    raise RuntimeError(f"{gateway.tasks} tasks: the traffic did not move within 30 s")


def rest(gateway: Gateway, seconds: float = 5.0) -> None:
    """Measures what the gateway does without a call."""
    envoy = load.find_child(gateway.server.pid, "envoy")
    before, before_envoy = load.cpu_seconds(gateway.server.pid), load.cpu_seconds(envoy)
    time.sleep(seconds)
    spent, spent_envoy = load.cpu_seconds(gateway.server.pid) - before, load.cpu_seconds(envoy) - before_envoy
    gateway.idle, gateway.idle_control = spent / seconds, (spent - spent_envoy) / seconds


def measure(gateways: list[Gateway], backends: list[Server], options: argparse.Namespace) -> None:
    for gateway in gateways:
        rest(gateway)
        gateway.fresh_idle = gateway.idle
    for turn in range(options.rounds):
        for gateway in gateways:
            gateway.single_us.append(single(gateway, options.seconds, 1 if turn == 0 else 0))
            print(
                f"  round {turn + 1}, {gateway.tasks} tasks, one called: {gateway.single_us[-1]:.0f} us",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    for gateway in gateways:
        in_turn(gateway, gateway.tasks)
        rest(gateway)
    for turn in range(options.rounds):
        for gateway in gateways:
            gateway.turns_us.append(in_turn(gateway, options.calls))
            print(
                f"  round {turn + 1}, {gateway.tasks} tasks in turn: {gateway.turns_us[-1]:.0f} us",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    for gateway in gateways:
        for number in range(options.edits):
            gateway.edits_s.append(edit(gateway, backends, moved=number % 2 == 0))
        print(f"  {gateway.tasks} tasks: {options.edits} edits", file=sys.stderr, flush=True)


def report(gateways: list[Gateway]) -> bool:
    """Prints the table; whether the bars hold."""
    first, last = gateways[0], gateways[-1]
    rows: list[tuple[str, ...]] = [
        (
            str(g.tasks), f"{g.load_s:.1f}", f"{g.envoy_mib:.0f}", f"{g.control_mib:.0f}",
            f"{g.fresh_idle * 1e3:.0f}",
            f"{(g.idle - g.idle_control) * 1e3:.0f} + {g.idle_control * 1e3:.0f}",
            f"{statistics.median(g.single_us):.0f}", f"{_ratio(g.single_us, first.single_us):.2f}",
            f"{statistics.median(g.turns_us):.0f}", f"{_ratio(g.turns_us, first.turns_us):.2f}",
            f"{statistics.median(g.edits_s):.2f}", f"{max(g.edits_s):.2f}",
        )
        for g in gateways
    ]  # fmt: skip
    head = (
        "tasks x 4", "load s", "Envoy MiB", "control MiB", "idle ms/s", "used: Envoy + control", "us, one task",
        "ratio", "us, all in turn", "ratio", "edit s", "worst s",
    )  # fmt: skip
    load.table(f"Many tasks ({load.machine()})", head, rows)
    cost, edit_s = _ratio(last.single_us, first.single_us), statistics.median(last.edits_s)
    bars = [
        (
            f"cost of a request, {last.tasks} / {first.tasks} tasks",
            f"{cost:.2f}",
            str(COST_BAR),
            cost <= COST_BAR,
        ),
        (f"edit to traffic, {last.tasks} tasks", f"{edit_s:.2f} s", f"{EDIT_BAR_S} s", edit_s <= EDIT_BAR_S),
    ]
    load.table("Bars", ("what", "is", "bar", ""), [(*bar[:3], "ok" if bar[3] else "BROKEN") for bar in bars])
    return all(bar[3] for bar in bars)


def _ratio(mine: list[float], base: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(mine, base, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tasks", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 100, 1000], help="how many tasks")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each gateway gets [%(default)s]")
    parser.add_argument("--seconds", type=int, default=2, help="of each turn under h2load [%(default)s]")
    parser.add_argument("--calls", type=int, default=3000, help="of each turn in turn [%(default)s]")
    parser.add_argument("--edits", type=int, default=6, help="timed, of each gateway [%(default)s]")
    options = parser.parse_args()
    load.require("h2load", "nghttpd")
    # Thousands of health checks hold connections open: more files than a shell's usual limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as stack:
        backends = stack.enter_context(servers.echo_backends(4))
        gateways = start(stack, options, backends)
        measure(gateways, backends, options)
        return 0 if report(gateways) else 1


if __name__ == "__main__":
    sys.exit(main())
