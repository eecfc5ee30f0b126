"""What the PyTorch worker achieves beside other model servers: requests per second of one small model, in one run.

Every server runs alone with the load generator, in an environment of its own (made from 3rdparty/peers/NAME.lock) and
in its better setting; every answer is compared with the bare model's before anything is measured."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import load
from benchmarks.peer_environments import prepare
from benchmarks.peer_load import Measured, Rows, check, check_one, measure, median, warm_up
from benchmarks.peer_process import NotRunError, serving
from benchmarks.peer_servers import ECHO, PEERS, WORKER, Own, Place, Server
from benchmarks.servers import free_port

BAR = 3.0
EPILOG = """\
The model is the example mmoe: 138 features, two heads, one row a request. Machines are noisy: compare the columns of
one run, not numbers of two runs. The environments take about 7 GB under var/benchmarks/peers (far less with uv).
"""
Results = Mapping[tuple[str, int], Measured]


def main() -> int:
    options = _options()
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # so that no server stays behind
    load.require("h2load")
    peers = [peer for peer in PEERS if not options.only or peer.name.split()[0] in options.only]
    missing: dict[str, str] = {}
    pythons = _prepare(peers, options.environments, missing)
    if options.prepare:
        for name, reason in missing.items():
            print(f"{name}: {reason}", file=sys.stderr)
        return 1 if missing else 0
    samples: dict[tuple[str, int], list[Measured]] = {}
    for _ in range(options.rounds):
        for server in (ECHO, WORKER, *peers):
            if server.name in missing:
                continue
            try:
                for in_flight, result in _measure(server, pythons.get(server.environment), options).items():
                    samples.setdefault((server.name, in_flight), []).append(result)
                    print(
                        f"  {server.name}, {in_flight} in flight: {result.rate:.0f}/s",
                        file=sys.stderr,
                        flush=True,
                    )
            except NotRunError as error:
                missing[server.name] = str(error)
                print(f"  {server.name}: not run: {error}", file=sys.stderr, flush=True)
    results = {key: median(rounds) for key, rounds in samples.items() if key[0] not in missing}
    _report(results, peers, missing, options.in_flight)
    return 0


def _prepare(peers: Sequence[Server], environments: Path, missing: dict[str, str]) -> dict[str, Path]:
    """The Python of each peer's environment; why there is none goes to `missing`, by the peer's name."""
    pythons: dict[str, Path] = {}
    for environment in dict.fromkeys(peer.environment for peer in peers):
        try:
            pythons[environment] = prepare(environment, environments)
        except NotRunError as error:
            missing.update({peer.name: str(error) for peer in peers if peer.environment == environment})
    return pythons


def _measure(server: Server, python: Path | None, options: argparse.Namespace) -> dict[int, Measured]:
    model = (options.models / "mmoe").absolute()
    rows = Rows.read(model)
    if server.echoes:
        rows = Rows(rows.features, rows.features)
    # Short, since some peers put sockets in it.
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder:
        own = Own(options.dist.absolute(), options.worker_python)
        place = Place(python or Path(sys.executable), model, Path(folder), free_port(), own)
        address = f"127.0.0.1:{place.port}"

        def ready() -> None:
            check_one(address, server.call, rows)

        with serving(server.launch(place), ready) as pid:
            check(address, server.call, rows)
            results = {}
            warm_up(address, server.call, rows, max(options.in_flight), server.warm_up_s, options.h2load)
            for in_flight in options.in_flight:
                results[in_flight] = measure(
                    address, server.call, rows, pid, in_flight, options.seconds, options.h2load
                )
            check(address, server.call, rows)
            return results


def _report(
    results: Results, peers: Sequence[Server], missing: Mapping[str, str], in_flight: Sequence[int]
) -> None:
    rows = []
    for server in (ECHO, WORKER, *peers):
        row = [server.name]
        for count in in_flight:
            result, own = results.get((server.name, count)), results.get((WORKER.name, count))
            row += [
                f"{result.rate:.0f}" if result else "-",
                f"{own.rate / result.rate:.2f}" if result and own else "-",
                f"{result.cpu_us:.0f}" if result else "-",
            ]
        rows.append(tuple(row))
    head = ("server", *(text for n in in_flight for text in (f"req/s at {n}", "worker is x", "CPU us")))
    load.table(f"Requests per second, mmoe, one row a request ({load.machine()})", head, rows)
    print("\nSettings")
    for server in (ECHO, WORKER, *peers):
        print(f"  {server.name}: {server.setting}")
    for name, reason in missing.items():
        print(f"  {name}: not run: {reason}")
    print(f"\n{verdict(results, [peer.name for peer in peers], in_flight)}")


def verdict(results: Results, peers: Sequence[str], in_flight: Sequence[int]) -> str:
    """The worker against the best peer at each number of calls in flight, in a line."""
    parts = []
    missed = []
    for count in in_flight:
        rates = {peer: results[peer, count].rate for peer in peers if (peer, count) in results}
        own = results.get((WORKER.name, count))
        if not rates or own is None:
            return "worker / best peer: not measured"
        best = max(rates, key=lambda peer: rates[peer])
        ratio = own.rate / rates[best]
        parts.append(f"{ratio:.2f} at {count} in flight ({best})")
        if ratio < BAR:
            missed.append(str(count))
    outcome = f"missed at {', '.join(missed)}" if missed else "met"
    return f"worker / best peer: {', '.join(parts)}; the bar of {BAR:.0f} is {outcome}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="peers", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted({peer.name.split()[0] for peer in PEERS})
    parser.add_argument("--prepare", action="store_true", help="only make the peers' environments")
    parser.add_argument("--only", nargs="+", choices=names, metavar="PEER", help=f"of {', '.join(names)}")
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument(
        "--models", type=Path, default=Path("var/models"), help="example models [%(default)s]"
    )
    parser.add_argument(
        "--environments", type=Path, default=Path("var/benchmarks/peers"), help="[%(default)s]"
    )
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16, 64], help="calls in flight")
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement [%(default)s]")
    parser.add_argument("--rounds", type=int, default=1, help="through all servers; medians [%(default)s]")
    parser.add_argument("--h2load", default="h2load", help="command of the load generator [%(default)s]")
    parser.add_argument(
        "--worker-python",
        type=shlex.split,
        metavar="COMMAND",
        help="a Python with the worker's packages and, by PYTHONPATH, its sources: measured instead of the PEX",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
