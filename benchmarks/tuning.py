"""What each option of the gateway's Envoy costs or saves: CPU per call with it changed, less CPU per call as it is.

Starts a gateway, takes the configuration that it gives its Envoy, and runs copies of that Envoy, each with one thing
changed; then loads one after the other, in rounds, each round in another order.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks import load, servers
from benchmarks.servers import TASK, WPAI_PREDICT, Server
from benchmarks.tuning_envoy import original, variant
from benchmarks.tuning_options import AS_IS, OPTIONS, Option

EPILOG = """\
The backends are two nghttpd, which echo in C. Every Envoy has one thread. CPU is read from the scheduler, in
nanoseconds; on a machine that does other things a call costs more of it, up to twice, so only what was measured within
the same second is compared. `%` is the median over the rounds of the ratio to the mean of three Envoys that are as the
gateway has them; `us` is that of its cost. `+-` is half of the distance between the quartiles of those ratios divided
by the root of the number of rounds: take nothing that is smaller than two of those for an effect. What Envoy refuses
is left out with a line that says why.
"""

PLAIN = "plain Envoy"


def cpu_ns(pid: int) -> int:
    """What the scheduler has given to a process's threads."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # ended meanwhile
            total += int((thread / "schedstat").read_text().split()[0])
    return total


def cost_us(server: Server, option: Option, body: Path, calls: int, in_flight: int) -> float:
    """CPU microseconds per call. Raises RuntimeError when a call fails."""
    connections = min(4, in_flight)
    headers = ["content-type: application/grpc", "te: trailers", *option.headers]
    command = [
        "h2load", f"http://{server.address}{option.path or WPAI_PREDICT}", "-d", str(body), "-t", "1",
        "-c", str(connections), "-m", str(in_flight // connections), "-n", str(calls),
        *(part for header in headers for part in ("-H", header)),
    ]  # fmt: skip
    before = cpu_ns(server.pid)
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    spent = cpu_ns(server.pid) - before
    if not re.search(rf"status codes: {calls} 2xx", output):
        raise RuntimeError(f"{' '.join(command)} failed:\n{output}")
    return spent / calls / 1000


def check(server: Server, option: Option, body: bytes) -> None:
    """One call by a real client: h2load would take a gRPC error for success. Raises grpc.RpcError."""
    metadata = [tuple(header.split(": ", 1)) for header in option.headers]
    with grpc.insecure_channel(server.address) as channel:
        echo = channel.unary_unary(option.path or WPAI_PREDICT)(body, timeout=10, metadata=metadata)
    if echo != body:
        raise RuntimeError("the echo differs")


@dataclass(slots=True)
class Measured:
    option: Option
    server: Server
    costs: list[float] = field(default_factory=list)


def spread(values: Sequence[float]) -> float:
    """How far the median of such values may be off."""
    if len(values) < 2:
        return float("inf")
    low, _, high = statistics.quantiles(values, n=4)
    return float((high - low) / 2 / len(values) ** 0.5)


def rows(measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    """The table: plain Envoy, the gateway, the options by what they save."""
    same = [m.costs for m in measured if m.option is AS_IS]
    base = [statistics.mean(costs) for costs in zip(*same, strict=True)]
    whole = statistics.median(base)
    found = []
    for m in measured:
        if m.option is AS_IS:
            continue
        ratios = [cost / unchanged - 1 for cost, unchanged in zip(m.costs, base, strict=True)]
        ratio = statistics.median(ratios)
        us = (f"{whole * (1 + ratio):.1f}", f"{whole * ratio:+.2f}")
        found.append((ratio, (m.option.name, *us, f"{ratio * 100:+.1f}", f"{spread(ratios) * 100:.1f}")))
    found.append((0.0, (AS_IS.name, f"{whole:.1f}", "", "", "")))
    return [cells for _, cells in sorted(found)]


def compare(options: argparse.Namespace, chosen: Sequence[Option]) -> list[tuple[str, ...]]:
    rng = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        backends = stack.enter_context(servers.echo_backends())
        nodes = folder / "nodes.txt"
        nodes.write_text(f"{TASK}=5000," + ",".join(b.address for b in backends) + "\n")
        command = (
            shlex.split(options.gateway)
            if options.gateway
            else [sys.executable, str(options.dist / "gateway.pex")]
        )
        gateway = stack.enter_context(_gateway(command, nodes))
        source = original(gateway.pid)
        measured = []
        plain = stack.enter_context(servers.plain_envoy_at(source.program, backends, 1))
        measured.append(Measured(Option(PLAIN), plain))
        for number, option in enumerate(chosen):
            try:
                server = stack.enter_context(variant(source, option.change, folder / str(number)))
                check(server, option, servers.message(options.size))
            except (RuntimeError, LookupError, grpc.RpcError) as error:
                print(f"{option.name}: left out: {error}", file=sys.stderr)
                continue
            measured.append(Measured(option, server))
        body = folder / "body"
        body.write_bytes(load.frame(servers.message(options.size)))
        for m in measured:
            cost_us(m.server, m.option, body, options.calls, options.in_flight)  # connections, caches
        for _ in range(options.rounds):
            for m in rng.sample(measured, len(measured)):
                m.costs.append(cost_us(m.server, m.option, body, options.calls, options.in_flight))
        return rows(measured)


@contextlib.contextmanager
def _gateway(command: list[str], nodes: Path) -> Iterator[Server]:
    process = subprocess.Popen(
        [*command, "serve", "--nodes", str(nodes), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
         "--concurrency", "1"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("READY "):
            raise RuntimeError("the gateway did not start")
        yield Server(line.split()[1], process.pid)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tuning",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("option", nargs="*", help="names of options to try, or parts of names [all]")
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument("--gateway", help="the gateway's command, where that is not DIST/gateway.pex")
    parser.add_argument("--size", type=int, default=256, help="of a message, bytes [%(default)s]")
    parser.add_argument("--rounds", type=int, default=60, help="[%(default)s]")
    parser.add_argument("--calls", type=int, default=1000, help="of an option in a round [%(default)s]")
    parser.add_argument("--in-flight", type=int, default=16, help="calls in flight [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of the order in a round [%(default)s]")
    options = parser.parse_args()
    load.require("h2load", "nghttpd")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    chosen = [o for o in OPTIONS if not options.option or any(part in o.name for part in options.option)]
    table = compare(options, [AS_IS, AS_IS, AS_IS, *chosen])
    title = f"CPU per call of {options.size} bytes, {options.in_flight} in flight ({load.machine()})"
    load.table(title, ("option", "us", "change", "%", "+-"), table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
