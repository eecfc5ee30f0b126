"""One measurement of one server: right answers first, then h2load, with every answer's size checked."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load
from benchmarks.peer_calls import Call, ask
from benchmarks.peer_process import NotRunError

CHECKS = 96
TIMEOUT_S = 600.0
TOLERANCE = 1e-5  # float32's, of probabilities
GRPC_FRAME = 5
LATE = 128  # answers; no more calls than that are ever open

_RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")
_DONE = re.compile(r"(\d+) done, \d+ succeeded, \d+ failed, (\d+) errored, (\d+) timeout")
_DATA = re.compile(r"\((\d+)\) data")


@dataclass(frozen=True, slots=True)
class Rows:
    """What the bare model answers: rows of features, and the heads of each."""

    features: list[list[float]]
    heads: list[list[float]]

    @classmethod
    def read(cls, model: Path) -> Rows:
        expected = json.loads((model / "expected.json").read_text())
        return cls(expected["features"], expected["outputs"])


@dataclass(frozen=True, slots=True)
class Measured:
    """Requests per second, and CPU microseconds of the server's processes per request."""

    rate: float
    cpu_us: float


def median(rounds: Sequence[Measured]) -> Measured:
    return Measured(
        statistics.median(round_.rate for round_ in rounds),
        statistics.median(round_.cpu_us for round_ in rounds),
    )


def check_one(address: str, call: Call, rows: Rows, number: int = 0) -> int:
    """Asks for one row and returns the size of the answer in bytes.

    Raises RuntimeError when the answer is not the bare model's."""
    expected = rows.heads[number % len(rows.heads)]
    values, size = ask(address, call, rows.features[number % len(rows.features)])
    if len(values) != len(expected) or any(
        abs(value - head) > TOLERANCE for value, head in zip(values, expected, strict=True)
    ):
        raise RuntimeError(f"answered {values}, the bare model {expected}")
    return size


def check(address: str, call: Call, rows: Rows) -> None:
    """Different rows at a time, so that a batch whose answers went to the wrong callers would show."""
    with ThreadPoolExecutor(16) as pool:
        for answer in [pool.submit(check_one, address, call, rows, number) for number in range(CHECKS)]:
            answer.result()


def command(address: str, call: Call, body_file: str, in_flight: int, h2load: str) -> list[str]:
    """h2load with `in_flight` calls open: for gRPC over up to 8 connections, for HTTP/1.1 over one for each."""
    if call.grpc:
        arguments = load.h2load_command(address, call.path, body_file, in_flight)[0][1:]
    else:
        arguments = [
            f"http://{address}{call.path}", "--h1", "-d", body_file, "-t", "1", "-c", str(in_flight), "-m", "1",
        ]  # fmt: skip
    for header in call.headers:
        arguments += ["-H", header]
    return [*shlex.split(h2load), *arguments]


def warm_up(address: str, call: Call, rows: Rows, in_flight: int, seconds: int, h2load: str) -> None:
    """Load before the first measurement, with as many calls open as any has: what runs hot is compiled by then."""
    with _body(call, rows) as body:
        _run([*command(address, call, body, in_flight, h2load), "-D", str(seconds)])


@contextlib.contextmanager
def _body(call: Call, rows: Rows) -> Iterator[str]:
    with tempfile.NamedTemporaryFile() as body:
        message = call.body(rows.features[0])
        body.write(load.frame(message) if call.grpc else message)
        body.flush()
        yield body.name


def measure(
    address: str, call: Call, rows: Rows, pid: int, in_flight: int, seconds: int, h2load: str
) -> Measured:
    """Keeps `in_flight` calls of one row open. Raises NotRunError when the answers are not what they should be."""
    size = check_one(address, call, rows)
    with _body(call, rows) as body:
        arguments = command(address, call, body, in_flight, h2load)
        _run([*arguments, "-D", "1"])
        before = load.cpu_seconds(pid)
        rate, done = read(_run([*arguments, "-D", str(seconds)]), size + GRPC_FRAME * call.grpc)
        spent = load.cpu_seconds(pid) - before
    check_one(address, call, rows)
    return Measured(rate, spent / done * 1e6)


def read(output: str, size: int) -> tuple[float, int]:
    """Requests per second and how many ended, from h2load's report. Raises NotRunError unless the answers had `size`
    bytes on average.

    An error has another size than an answer. h2load itself knows no gRPC status, and counts uploads over HTTP/1.1 as
    failed whatever was answered.
    """
    rate, done, data = _RATE.search(output), _DONE.search(output), _DATA.search(output)
    if rate is None or done is None or data is None or int(done[1]) == 0:
        raise NotRunError(f"h2load got no answers: {output.strip()[-200:]}")
    answered, errors = int(done[1]), int(done[2]) + int(done[3])
    if errors:
        raise NotRunError(f"{errors} of {answered} requests failed")
    # Answers that come after the last second are not counted, though their bytes are.
    if not 0.99 * answered <= int(data[1]) / size <= 1.01 * answered + LATE:
        raise NotRunError(f"{int(data[1]) / answered:.1f} bytes an answer under load instead of {size}")
    return float(rate[1]), answered


def _run(arguments: list[str]) -> str:
    try:
        return subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
    except subprocess.SubprocessError as error:
        raise NotRunError(f"the load generator: {error}") from None
