"""What the embedded TensorFlow server achieves, in one run: against the grpc.aio server that a user would write over
the same SavedModel, against TensorFlow Serving itself where it is installed, and against the bare signature in a
loop."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np

from benchmarks import load
from benchmarks.servers import PEERS, WORK, Server, free_port, running
from examples.quickstart.processes import Processes
from examples.tensorflow.textcnn.tokens import SEQUENCE_LENGTH, UNKNOWN_LABEL, cells
from libs.proto.messages import DataType, PredictRequest, PredictResponse, TensorProto

METHOD = "/tensorflow.serving.PredictionService/Predict"
OFFICIAL = "tensorflow_model_server"
EPILOG = f"""\
The models are the examples': half_plus_two, a call of some microseconds, and textcnn, 72 strings a row looked up in a
vocabulary, an embedding and a convolution. A request is one row, for textcnn also of 32 rows. Each server runs alone
with the load generator (h2load, one thread). TensorFlow Serving itself is measured when {OFFICIAL} is on the PATH.
Machines are noisy: compare the columns of one run, not numbers of two runs.
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and a request for it of `rows` rows, whose answer's numbers are in the output `output`."""

    name: str
    rows: int
    output: str

    def request(self) -> bytes:
        request = PredictRequest()
        request.model_spec.name = self.name
        if self.name == "half_plus_two":
            request.inputs["x"].dtype = DataType.DT_FLOAT
            _shape(request.inputs["x"], self.rows, 1)
            request.inputs["x"].float_val.extend(float(row) for row in range(self.rows))
        else:
            request.model_spec.signature_name = "prediction"
            texts = [f"how much is the flat number {row}" for row in range(self.rows)]
            request.inputs["sentence"].dtype = request.inputs["label"].dtype = DataType.DT_STRING
            _shape(request.inputs["sentence"], self.rows, SEQUENCE_LENGTH)
            request.inputs["sentence"].string_val.extend(cells(texts))
            _shape(request.inputs["label"], self.rows)
            request.inputs["label"].string_val.extend([UNKNOWN_LABEL.encode()] * self.rows)
        return bytes(request.SerializeToString())


def _shape(tensor: TensorProto, *sizes: int) -> None:
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)


def answer(address: str, subject: Subject) -> list[float]:
    """One call by a real client: h2load would take a gRPC error for success."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD, response_deserializer=PredictResponse.FromString)
        tensor = call(subject.request(), timeout=30).outputs[subject.output]
    values = np.frombuffer(tensor.tensor_content, "<f4") if tensor.tensor_content else tensor.float_val
    return [round(float(value), 3) for value in values]


@contextlib.contextmanager
def embedded(options: argparse.Namespace, subject: Subject, *flags: str) -> Iterator[Server]:
    base = options.models / subject.name
    with Processes(options.dist, WORK) as processes:
        process = processes.start(
            "tf-serving", "tf-serving", "serve", "--model-name", subject.name,
            "--model-base-path", str(base.absolute()), "--port", "0", *flags,
        )  # fmt: skip
        yield Server(process.wait_ready(), process.pid)


@contextlib.contextmanager
def aio(options: argparse.Namespace, subject: Subject, where: str) -> Iterator[Server]:
    port = free_port()
    command = [*_python(options), str(PEERS / "tf_aio.py"), str(_version(options, subject)), str(port), where]
    with running(command, port, **_QUIET) as pid:
        yield Server(f"127.0.0.1:{port}", pid)


@contextlib.contextmanager
def official(options: argparse.Namespace, subject: Subject, *flags: str) -> Iterator[Server]:
    port = free_port()
    base = (options.models / subject.name).absolute()
    command = [
        OFFICIAL,
        f"--port={port}",
        f"--model_name={subject.name}",
        f"--model_base_path={base}",
        *flags,
    ]
    with running(command, port, **_QUIET) as pid:
        yield Server(f"127.0.0.1:{port}", pid)


_QUIET = {"PEX_INTERPRETER": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
EMBEDDED, BATCHED = "tf-serving", "tf-serving, batching"
Running = contextlib.AbstractContextManager[Server]

SERVERS: dict[str, Callable[[argparse.Namespace, Subject], Running]] = {
    EMBEDDED: embedded,
    BATCHED: lambda options, subject: embedded(options, subject, "--enable-batching"),
    "grpc.aio, model in the loop": partial(aio, where="loop"),
    "grpc.aio, model in threads": partial(aio, where="thread"),
}


def _python(options: argparse.Namespace) -> list[str]:
    return [sys.executable, str(options.dist / "tf-serving.pex")]


def _version(options: argparse.Namespace, subject: Subject) -> Path:
    """The newest version folder of the model."""
    base: Path = options.models / subject.name
    return max(
        (path for path in base.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)
    ).absolute()


def bare(options: argparse.Namespace, subject: Subject) -> list[tuple[int, int, float]]:
    """(threads, batch, rows/s) of the signature in a loop."""
    file = WORK / f"{subject.name}.request"
    file.write_bytes(Subject(subject.name, 1, subject.output).request())
    command = [
        *_python(options), str(PEERS / "tf_bare.py"), str(_version(options, subject)), str(file.absolute()),
        str(options.seconds / 4),
    ]  # fmt: skip
    output = subprocess.run(
        command, env={**os.environ, **_QUIET}, check=True, capture_output=True, text=True, timeout=600
    ).stdout
    return [(int(t), int(b), float(r)) for t, b, r in map(str.split, output.splitlines())]


def compare(options: argparse.Namespace, subject: Subject, best: tuple[int, int, float]) -> None:
    """Measure every server with one request and print a table."""
    body = subject.request()
    rows, rates, answers = [], {}, {}
    for name, server in options.servers.items():
        with server(options, subject) as running_server:
            answers[name] = answer(running_server.address, subject)
            for in_flight in options.in_flight:
                measured = load.run(
                    running_server.address, METHOD, body, running_server.pid, in_flight, options.seconds
                )
                rates[name, in_flight] = measured
                print(f"  {name}, {in_flight} in flight: {measured.rate:.0f}/s", file=sys.stderr)
            assert answers[name] == answer(running_server.address, subject)
    assert len({tuple(values) for values in answers.values()}) == 1, f"the servers disagree: {answers}"
    for name in options.servers:
        row = [name]
        for in_flight in options.in_flight:
            measured = rates[name, in_flight]
            fastest = max(rates[ours, in_flight].rate for ours in (EMBEDDED, BATCHED))
            row += [
                f"{measured.rate:.0f}",
                f"{measured.cpu_us:.0f}",
                f"{fastest / measured.rate:.2f}",
                f"{measured.rate * subject.rows / best[2]:.2f}",
            ]
        rows.append(row)
    head = ["server"]
    for in_flight in options.in_flight:
        head += [f"req/s at {in_flight}", "CPU us", "ours is x", "of bare"]
    threads, batch, rate = best
    load.table(
        f"{subject.name}, {subject.rows} row(s) a request; bare signature at best {rate:.0f} rows/s "
        f"({threads} thread(s), batch {batch})",
        head,
        rows,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tf_serving",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument(
        "--models", type=Path, default=Path("var/models"), help="example models [%(default)s]"
    )
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16, 64], help="calls in flight")
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement [%(default)s]")
    options = parser.parse_args()
    load.require("h2load")
    WORK.mkdir(parents=True, exist_ok=True)
    options.servers = dict(SERVERS)
    if shutil.which(OFFICIAL):
        options.servers["TensorFlow Serving"] = official
        options.servers["TensorFlow Serving, batching"] = lambda o, s: official(o, s, "--enable_batching")
    else:
        print(f"{OFFICIAL} is not installed: TensorFlow Serving itself is not measured", file=sys.stderr)
    print(load.machine())
    for name, output, sizes in (("half_plus_two", "y", (1,)), ("textcnn", "score", (1, 32))):
        loops = bare(options, Subject(name, 1, output))
        table = [(str(t), str(b), f"{r:.0f}") for t, b, r in loops]
        load.table(f"{name}: the bare signature", ("threads", "batch", "rows/s"), table)
        for rows in sizes:
            compare(options, Subject(name, rows, output), max(loops, key=lambda loop: loop[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
