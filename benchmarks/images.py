"""What serving costs models that compute much: rows per second end to end over gRPC, as a share of the bare `model(x)`
loop at its best batch size and number of threads, measured in turns in one run."""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from benchmarks import load
from examples.quickstart.processes import Process, Processes
from libs.proto.messages import DataType, ModelInferRequest, SeldonMessage

SELDON = "/seldon.protos.Model/Predict"
KSERVE = "/inference.GRPCInferenceService/ModelInfer"
CONVNETS = Path(__file__).parent / "peers" / "convnets.py"
EPILOG = """\
The networks are built in code with random weights: the digits example's (1x8x8), a text classifier of three
convolutions over 64 tokens, and one of ResNet-50's shape (3x224x224). All of the load generator (h2load), Envoy, the
event loop and the model share the machine's cores; the bare loop has them alone. Machines are noisy: compare the
columns of one run.
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A network, what its requests carry, and what is expected.

    Attributes:
        shape: of one row.
        rows: a request has, one measurement each.
        in_flight: rows, by default two full batches; at least 4 requests.
        bar: least share of the bare loop's rows per second, in the best of its settings.
        batches: of the bare loop that are tried.
    """

    name: str
    shape: tuple[int, ...]
    rows: tuple[int, ...]
    in_flight: int
    bar: float
    batches: tuple[int, ...]


SUBJECTS = (
    Subject("digits", (1, 8, 8), (1, 8, 64), 128, 0.6, (16, 32, 64, 128, 256)),
    Subject("textcnn", (64,), (1, 8, 64), 128, 0.7, (8, 16, 32, 64, 128)),
    Subject("resnet50", (3, 224, 224), (1,), 4, 0.92, (1, 2, 4, 8)),
)


def bodies(name: str, values: np.ndarray) -> dict[str, tuple[str, bytes]]:
    """Method and message by protocol, of one request with these values."""
    tensor, tftensor, infer = SeldonMessage(), SeldonMessage(), ModelInferRequest(model_name=name)
    tensor.data.tensor.shape.extend(values.shape)
    tensor.data.tensor.values.extend(values.ravel())
    floats = values.dtype == np.float32
    tftensor.data.tftensor.dtype = DataType.DT_FLOAT if floats else DataType.DT_INT64
    for size in values.shape:
        tftensor.data.tftensor.tensor_shape.dim.add(size=size)
    tftensor.data.tftensor.tensor_content = values.tobytes()
    kind = "FP32" if floats else "INT64"
    infer.inputs.add(name="x", datatype=kind, shape=values.shape)
    infer.raw_input_contents.append(values.tobytes())
    return {
        "Seldon tensor": (SELDON, tensor.SerializeToString()),
        "Seldon tftensor": (SELDON, tftensor.SerializeToString()),
        "KServe raw": (KSERVE, infer.SerializeToString()),
    }


def values_of(subject: Subject, rows: int) -> np.ndarray:
    random = np.random.default_rng(1)
    if subject.name == "textcnn":
        return random.integers(0, 50_000, (rows, *subject.shape))
    return random.random((rows, *subject.shape), dtype=np.float32)


class Bare:
    """The loop without a server, in a process of its own that sleeps between measurements."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._line()

    def rate(self, threads: int, rows: int, seconds: float) -> tuple[float, float]:
        """Rows per second, and CPU microseconds per row."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{threads} {rows} {seconds}\n")
        self._process.stdin.flush()
        per_second, cpu_us = self._line().split()
        return float(per_second), float(cpu_us)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the bare loop ended with status {self._process.wait(10)}")
        return line


def python(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a Python that has PyTorch: the one given, else the worker's PEX."""
    if options.python is not None:
        return [options.python], {**os.environ, "PYTHONPATH": os.getcwd()}
    pex = options.dist / "torch-worker-cpu.pex"
    return [sys.executable, str(pex)], {**os.environ, "PEX_INTERPRETER": "1"}


@contextlib.contextmanager
def bare(options: argparse.Namespace, name: str) -> Iterator[Bare]:
    command, environment = python(options)
    with subprocess.Popen(
        [*command, str(CONVNETS), "loop", name],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield Bare(process)
        finally:
            process.kill()


@contextlib.contextmanager
def worker(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, int]]:
    """The worker over a model folder; its address and process."""
    arguments = ["serve", "--model-dir", str(folder), "--port", "0", *options.worker_flags]
    with Processes(options.dist, options.work) as processes:
        if options.python is None:
            process = processes.start("worker", "torch-worker-cpu", *arguments)
        else:
            command, environment = python(options)
            log = options.work / "worker.log"
            with log.open("w") as stderr:
                popen = subprocess.Popen(
                    [*command, "-m", "services.torch_worker", *arguments],
                    env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, bufsize=1,
                    start_new_session=True,
                )  # fmt: skip
            process = Process("worker", popen, log)
            processes.running.append(process)
        yield process.wait_ready(), process.pid


def check(address: str, method: str, body: bytes, rows: int) -> None:
    """One call by a real client: h2load would take a gRPC error for success. Raises RuntimeError."""
    with grpc.insecure_channel(address) as channel:
        answer = channel.unary_unary(method)(body, timeout=60)
    if len(answer) < rows * 10 * 4:
        raise RuntimeError(f"{method} answered {len(answer)} bytes to {rows} rows")


def errors(address: str) -> str:
    """The worker's own count of answers other than OK: h2load takes a gRPC error for success, and a fast one."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    # h2load cancels what is in flight when its time is over.
    fine = ('grpc_code="OK"', 'grpc_code="Cancelled"')
    handled = [line for line in lines if line.startswith("grpc_server_handled_total{")]
    return "; ".join(
        line
        for line in handled
        if not any(code in line for code in fine) and not line.endswith((" 0", " 0.0"))
    )


def best_setting(loop: Bare, subject: Subject) -> tuple[int, int]:
    """Threads and batch size at which the bare loop is fastest."""
    counts = sorted({1, max(1, (os.cpu_count() or 1) // 2), os.cpu_count() or 1})
    rates = {
        (threads, rows): loop.rate(threads, rows, 0.3)[0] for threads in counts for rows in subject.batches
    }
    return max(rates, key=lambda setting: rates[setting])


def measure(options: argparse.Namespace, subject: Subject) -> list[tuple[str, ...]]:
    """Rows of the table: one a kind of request."""
    table: list[tuple[str, ...]] = []
    with bare(options, subject.name) as loop, worker(options, options.work / subject.name) as (address, pid):
        requests = {
            (rows, kind): message
            for rows in subject.rows
            for kind, message in bodies(subject.name, values_of(subject, rows)).items()
            if kind in options.kinds
        }
        for (rows, _), (method, body) in requests.items():
            check(address, method, body, rows)
        threads, batch = best_setting(loop, subject)
        served: dict[tuple[int, str], list[load.Result]] = {request: [] for request in requests}
        alone: dict[tuple[int, str], list[float]] = {request: [] for request in requests}
        alone_cpu_us: list[float] = []
        for _ in range(options.rounds):
            before = loop.rate(threads, batch, options.seconds)
            for request, (method, body) in requests.items():
                in_flight = max(4, subject.in_flight // request[0])
                served[request].append(load.run(address, method, body, pid, in_flight, options.seconds))
                after = loop.rate(threads, batch, options.seconds)
                alone[request].append((before[0] + after[0]) / 2)
                alone_cpu_us.append(after[1])
                before = after
        refused = errors(address)
        if refused:
            raise RuntimeError(f"the worker answered with errors: {refused}")
        for (rows, kind), results in served.items():
            shares = [
                result.rate * rows / rate for result, rate in zip(results, alone[rows, kind], strict=True)
            ]
            table.append(
                (
                    subject.name, kind, str(rows), str(len(requests[rows, kind][1])),
                    f"{statistics.median(alone[rows, kind]):.0f} ({threads} x {batch})",
                    f"{statistics.median(r.rate for r in results) * rows:.0f}",
                    f"{statistics.median(shares):.2f}",
                    f"{statistics.median(alone_cpu_us):.0f}",
                    f"{statistics.median(r.cpu_us for r in results) / rows:.0f}",
                    f"{statistics.median(r.p50_us for r in results) / 1e3:.1f}",
                )
            )  # fmt: skip
            print("  " + "  ".join(table[-1]), file=sys.stderr)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="images",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [subject.name for subject in SUBJECTS]
    kinds = ["Seldon tensor", "Seldon tftensor", "KServe raw"]
    add = parser.add_argument
    add("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    add("--python", help="a Python with PyTorch, to run the worker from its sources instead of the PEX")
    add("--work", type=Path, default=Path("var/benchmarks/images"), help="for models and logs [%(default)s]")
    add(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)} [all]"
    )
    add(
        "--kinds",
        nargs="+",
        choices=kinds,
        default=kinds,
        metavar="KIND",
        help=f"of {', '.join(kinds)} [all]",
    )
    add("--rounds", type=int, default=3, help="of loop and server in turns [%(default)s]")
    add("--seconds", type=int, default=2, help="of each measurement [%(default)s]")
    add("--worker-flags", nargs=argparse.REMAINDER, default=[], help="further flags of the worker; last")
    options = parser.parse_args(argv)
    load.require("h2load")
    command, environment = python(options)
    options.work = options.work.absolute()
    subprocess.run([*command, str(CONVNETS), "save", str(options.work)], env=environment, check=True)
    table: list[tuple[str, ...]] = []
    for subject in SUBJECTS:
        if subject.name in options.only:
            table += measure(options, subject)
    head = (
        "network", "request", "rows", "bytes", "bare rows/s (threads x rows)", "served rows/s", "share",
        "bare CPU us/row", "CPU us/row", "p50 ms",
    )  # fmt: skip
    load.table(f"Rows per second, served and bare ({load.machine()})", head, table)
    verdicts = []
    for subject in SUBJECTS:
        shares = [float(row[6]) for row in table if row[0] == subject.name]
        if shares:
            verdict = "reached" if max(shares) >= subject.bar else "missed"
            verdicts.append(f"{subject.name}: best share {max(shares):.2f}, bar {subject.bar:.2f} {verdict}")
    print("\n" + "\n".join(verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
