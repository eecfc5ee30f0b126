"""What the gateway costs beside plain Envoy, nginx, HAProxy and a grpc.aio pass-through: CPU of the proxy per request,
and how much later an answer comes than from the backend itself. All in one run, on the same backends."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks import load, servers
from benchmarks.servers import WPAI_PREDICT, Server

EPILOG = """\
The backends are two nghttpd, which echo in C; every proxy has the same two, two threads, HTTP/2 on both sides. All
proxies are up, one at a time is under load (h2load), and they take turns, so that noise of the machine hits all alike.
A figure is the median of the rounds; a ratio is the median of the rounds' ratios. CPU is that of the proxy's processes
only, the gateway's control plane too. `added` is the proxy's p50 or p99 less that of the backend called directly in the
same round; with more calls in flight than the machine has cores it is mostly the wait for a core.
Ends with status 1 when a bar is broken: 1.3, 1.4, 1.5 times plain Envoy by size; 0.2 times grpc.aio at 256 B.
"""

Start = Callable[[Path, list[Server]], AbstractContextManager[Server]]

DIRECT, ENVOY, GATEWAY, AIO = "none (direct)", "plain Envoy", "gateway", "grpc.aio pass-through"
PROXIES: dict[str, Start] = {
    ENVOY: servers.plain_envoy,
    GATEWAY: servers.gateway,
    "nginx": servers.nginx,
    "HAProxy": servers.haproxy,
    AIO: servers.aio_proxy,
}
# The largest allowed multiple of plain Envoy up to a message of so many bytes.
BARS = ((1024, 1.3), (128 << 10, 1.4), (1 << 30, 1.5))
AIO_BAR, AIO_BAR_BYTES = 0.2, 1024

Results = dict[tuple[str, int], list[load.Result]]  # of each round, by proxy and size


def measure(options: argparse.Namespace) -> Results:
    results: Results = {}
    with contextlib.ExitStack() as stack:
        backends = stack.enter_context(servers.echo_backends())
        running = {DIRECT: stack.enter_context(servers.direct(options.dist, backends))}
        for name in options.proxies:
            running[name] = stack.enter_context(PROXIES[name](options.dist, backends))
        for turn in range(options.rounds):
            for size in options.sizes:
                body = servers.message(size)
                for name, server in running.items():
                    servers.check(server.address, body)
                    result = load.run(
                        server.address, WPAI_PREDICT, body, server.pid, options.in_flight, options.seconds,
                        warm_up_s=1 if turn == 0 else 0,
                    )  # fmt: skip
                    servers.check(server.address, body)
                    results.setdefault((name, size), []).append(result)
                    print(
                        f"  round {turn + 1}, {size} B, {name}: {result.cpu_us:.0f} us,"
                        f" p50 {result.p50_us:.0f} us, p99 {result.p99_us:.0f} us, {result.rate:.0f}/s",
                        file=sys.stderr, flush=True,
                    )  # fmt: skip
    return results


def ratio(results: Results, name: str, base: str, size: int) -> float:
    """The median over the rounds of one proxy's CPU per request in terms of another's."""
    pairs = zip(results[name, size], results[base, size], strict=True)
    return statistics.median(mine.cpu_us / other.cpu_us for mine, other in pairs)


def cost_rows(results: Results, options: argparse.Namespace) -> list[tuple[str, ...]]:
    rows = []
    for name in options.proxies:
        row = [name]
        for size in options.sizes:
            cost = statistics.median(result.cpu_us for result in results[name, size])
            row += [f"{cost:.0f}", f"{ratio(results, name, ENVOY, size):.2f}"]
        rows.append(tuple(row))
    return rows


def latency_rows(results: Results, options: argparse.Namespace) -> list[tuple[str, ...]]:
    def added(name: str, size: int, figure: Callable[[load.Result], float]) -> str:
        pairs = zip(results[name, size], results[DIRECT, size], strict=True)
        more = (figure(mine) - (0 if name == DIRECT else figure(base)) for mine, base in pairs)
        return f"{statistics.median(more):.0f}"

    return [
        (
            name,
            *(added(name, size, figure) for size in options.sizes for figure in (_p50, _p99)),
            *(f"{statistics.median(r.rate for r in results[name, size]):.0f}" for size in options.sizes),
        )
        for name in (DIRECT, *options.proxies)
    ]


def _p50(result: load.Result) -> float:
    return result.p50_us


def _p99(result: load.Result) -> float:
    return result.p99_us


def bars(results: Results, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Every bar that this run can judge: what, its figure, the bar, whether it holds."""
    found = []
    for size in options.sizes:
        if {ENVOY, GATEWAY} <= set(options.proxies):
            limit = next(bar for bytes_, bar in BARS if size <= bytes_)
            found.append((f"gateway / plain Envoy, {size} B", ratio(results, GATEWAY, ENVOY, size), limit))
        if {AIO, GATEWAY} <= set(options.proxies) and size <= AIO_BAR_BYTES:
            found.append((f"gateway / grpc.aio, {size} B", ratio(results, GATEWAY, AIO, size), AIO_BAR))
    return [(n, f"{v:.2f}", f"{limit}", "ok" if v <= limit else "BROKEN") for n, v, limit in found]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="gateway",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[256, 64 << 10, 600 << 10], help="message sizes, bytes"
    )
    parser.add_argument(
        "--proxies", nargs="+", choices=PROXIES, default=list(PROXIES), metavar="NAME",
        help="of: " + ", ".join(PROXIES),
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="turns that each proxy gets [%(default)s]")
    parser.add_argument("--seconds", type=int, default=2, help="of each turn [%(default)s]")
    parser.add_argument("--in-flight", type=int, default=16, help="calls in flight [%(default)s]")
    options = parser.parse_args()
    options.proxies = [ENVOY, *(name for name in options.proxies if name != ENVOY)]
    peers = [name.lower() for name in options.proxies if name in ("nginx", "HAProxy")]
    load.require("h2load", "nghttpd", *peers)
    results = measure(options)
    how = f"{options.in_flight} calls in flight, {options.rounds} rounds of {options.seconds} s ({load.machine()})"
    head = ("proxy", *(text for size in options.sizes for text in (f"us at {size} B", "ratio")))
    load.table(f"CPU per request: {how}", head, cost_rows(results, options))
    head = (
        "proxy",
        *(f"{figure} {size} B" for size in options.sizes for figure in ("p50", "p99")),
        *(f"req/s {size} B" for size in options.sizes),
    )
    load.table(
        "Added microseconds over the backend itself (first row: its own)",
        head,
        latency_rows(results, options),
    )
    judged = bars(results, options)
    load.table("Bars", ("what", "is", "bar", ""), judged)
    return 1 if any(row[-1] != "ok" for row in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
