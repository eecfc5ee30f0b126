"""What the PyTorch worker achieves: requests per second against the seldon-core microservice with the same model, and
against an echo on the worker's own transport (the limit); and what a lone caller waits for, in one run."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc

from benchmarks import load
from benchmarks.servers import free_port, running
from examples.quickstart.processes import Processes
from libs.proto.messages import SeldonMessage

METHOD = "/seldon.protos.Model/Predict"
FEATURES = 138
EPILOG = """\
The models: the quickstart's mmoe, 138 features, 6 experts, two heads, all experts in one product; and the same as it is
mostly written, a module for each expert, whose call takes several times as long. Each server runs alone with the load
generator (h2load, one thread). Machines are noisy: compare the columns of one run, not numbers of two runs.
"""


def message() -> bytes:
    request = SeldonMessage()
    request.meta.tags["taskId"].number_value = 111
    request.data.tensor.shape.extend([1, FEATURES])
    request.data.tensor.values.extend(0.01 * feature for feature in range(FEATURES))
    return request.SerializeToString()


def answer(address: str, body: bytes) -> list[float]:
    """One call by a real client: h2load would take a gRPC error for success."""
    with grpc.insecure_channel(address) as channel:
        response = channel.unary_unary(METHOD, response_deserializer=SeldonMessage.FromString)(
            body, timeout=30
        )
    return list(response.data.tensor.values)


@contextlib.contextmanager
def echo(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    port = free_port()
    script = Path(__file__).parent / "peers" / "pyvoy_echo.py"
    command = [sys.executable, str(options.dist / "torch-worker-cpu.pex"), str(script), str(port)]
    with running(command, port, PEX_INTERPRETER="1") as pid:
        yield f"127.0.0.1:{port}", pid


@contextlib.contextmanager
def worker(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    with Processes(options.dist, Path("var/benchmarks")) as processes:
        process = processes.start(
            "worker", "torch-worker-cpu", "serve", "--model-dir", str(options.model), "--port", "0"
        )
        yield process.wait_ready(), process.pid


@contextlib.contextmanager
def seldon(options: argparse.Namespace, threads: str = "one") -> Iterator[tuple[str, int]]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        for source in (options.model).glob("*m*.p*"):
            shutil.copy(source, folder)
        shutil.copy(Path(__file__).parent / "peers" / "seldon_mmoe.py", folder)
        pex = (options.dist / "benchmarks" / "seldon-peer.pex").absolute()
        command = [
            "env", "-C", folder, sys.executable, str(pex), "seldon_mmoe", "--service-type", "MODEL",
            "--grpc-port", str(port), "--http-port", str(free_port()), "--metrics-port", str(free_port()),
            "--workers", "1", "--grpc-workers", "1", "--log-level", "ERROR",
        ]  # fmt: skip
        with running(command, port, PYTHONPATH=folder, SELDON_MMOE_THREADS=threads) as pid:
            yield f"127.0.0.1:{port}", pid


ECHO, WORKER = "pyvoy echo (limit)", "torch-worker"
Running = contextlib.AbstractContextManager[tuple[str, int]]
"""A server that runs while the context lasts: its address and process."""

SERVERS: dict[str, Callable[[argparse.Namespace], Running]] = {
    ECHO: echo,
    WORKER: worker,
    "seldon-core 1.17.1 as it comes": partial(seldon, threads="default"),
    "seldon-core 1.17.1, one thread": seldon,
}


def bare_model_us(options: argparse.Namespace) -> tuple[float, float]:
    """Microseconds of half of the model's calls without a server: again and again, and with pauses between."""
    command = [
        sys.executable, str(options.dist / "torch-worker-cpu.pex"),
        str(Path(__file__).parent / "peers" / "bare_model.py"), str(options.model.absolute()),
    ]  # fmt: skip
    ran = subprocess.run(
        command,
        env={**os.environ, "PEX_INTERPRETER": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    hot, paused = map(float, ran.stdout.split())
    return hot, paused


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="worker",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument(
        "--models", type=Path, default=Path("var/models"), help="example models [%(default)s]"
    )
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16, 64], help="calls in flight")
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement [%(default)s]")
    parser.add_argument("--only", choices=["example", "textbook"], help="one of the models [both]")
    options = parser.parse_args()
    load.require("h2load")
    if options.only != "textbook":
        options.model = options.models / "mmoe"
        compare(options, "the example's mmoe")
    if options.only != "example":
        options.model = textbook(options)
        compare(options, "mmoe with a module for each expert")
    return 0


def textbook(options: argparse.Namespace) -> Path:
    """The folder of the model as it is mostly written, made anew."""
    folder = Path("var/benchmarks/textbook")
    script = Path(__file__).parent / "peers" / "textbook_mmoe.py"
    command = [
        sys.executable,
        str(options.dist / "torch-worker-cpu.pex"),
        str(script),
        str(folder.absolute()),
    ]
    subprocess.run(command, env={**os.environ, "PEX_INTERPRETER": "1"}, check=True, timeout=120)
    return folder


def compare(options: argparse.Namespace, title: str) -> None:
    """Measure every server with options.model and print the tables."""
    body = message()
    results: dict[tuple[str, int], load.Result] = {}
    answers: dict[str, list[float]] = {}
    for name, server in SERVERS.items():
        with server(options) as (address, pid):
            if server is not echo:
                answers[name] = [round(value, 4) for value in answer(address, body)]
            for in_flight in options.in_flight:
                results[name, in_flight] = load.run(address, METHOD, body, pid, in_flight, options.seconds)
                print(
                    f"  {name}, {in_flight} in flight: {results[name, in_flight].rate:.0f}/s", file=sys.stderr
                )
            if server is not echo:
                assert answers[name] == [round(value, 4) for value in answer(address, body)]
    assert len({tuple(values) for values in answers.values()}) == 1, f"the servers disagree: {answers}"
    rows = []
    for name in SERVERS:
        row = [name]
        for in_flight in options.in_flight:
            rate = results[name, in_flight].rate
            row += [f"{rate:.0f}", f"{results[WORKER, in_flight].rate / rate:.2f}"]
        rows.append(tuple(row))
    head = ("server", *(text for n in options.in_flight for text in (f"req/s at {n}", "worker is x")))
    load.table(f"Requests per second, {title}, one row a request ({load.machine()})", head, rows)
    if 1 in options.in_flight:
        hot, paused = bare_model_us(options)
        limit, took = results[ECHO, 1].p50_us, results[WORKER, 1].p50_us
        parts = [
            ("echo", f"{limit:.0f}", ""),
            ("bare model, again and again", f"{hot:.0f}", f"{took / (limit + hot):.2f}"),
            (
                "bare model, with pauses as between requests",
                f"{paused:.0f}",
                f"{took / (limit + paused):.2f}",
            ),
            (WORKER, f"{took:.0f}", ""),
        ]
        head = ("", "p50 us", "worker / (echo + it)")
        load.table(f"What a lone caller waits for, {title}", head, parts)


if __name__ == "__main__":
    sys.exit(main())
