"""More requests than the PyTorch worker can answer, each with a deadline: how many of them it still answers in time, as
a share of its best. The traffic is an open loop: it does not slow down because answers do."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks import load
from benchmarks.openloop import OpenLoop
from libs.proto.messages import SeldonMessage

METHOD = "/seldon.protos.Model/Predict"
MODEL = """\
import time

from torch import nn


class Timed(nn.Module):
    def __init__(self, base_ms, row_ms):
        super().__init__()
        self.base_s, self.row_s = base_ms / 1e3, row_ms / 1e3

    def forward(self, x):
        time.sleep(self.base_s + self.row_s * len(x))
        return x


def build_model(base_ms, row_ms):
    return Timed(base_ms, row_ms)
"""
CONFIG = """\
[model]
batchable = true
max_batch_size = {max_batch_size}

[parameters]
base_ms = {base_ms}
row_ms = {row_ms}
"""
# A safetensors file without tensors: the length of its header, and the header. The model has no weights.
WEIGHTS = struct.pack("<Q", 2) + b"{}"
EPILOG = """\
The model's calls take base + rows x row milliseconds, so its capacity is known: full batches, one after the other. In
time is what the client has within its deadline. Exit status 1: at the highest load goodput is below 0.9 of the best.
"""
BAR = 0.9
# The first calls find a worker that knows nothing of its model.
WARM_UP_S = 1.5


@dataclass(frozen=True, slots=True)
class Model:
    """What calls take of a model that does no work, as one on an accelerator."""

    base_ms: float = 10.0
    row_ms: float = 5.0
    max_batch_size: int = 8

    @property
    def capacity(self) -> float:
        """Rows a second in full batches."""
        return 1e3 * self.max_batch_size / (self.base_ms + self.row_ms * self.max_batch_size)

    def write(self, folder: Path) -> None:
        """Makes a model folder of it."""
        (folder / "model.py").write_text(MODEL)
        (folder / "model.safetensors").write_bytes(WEIGHTS)
        (folder / "config.toml").write_text(
            CONFIG.format(max_batch_size=self.max_batch_size, base_ms=self.base_ms, row_ms=self.row_ms)
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """One load: what was sent and answered in time a second, the statuses, and the latency of what was in time."""

    sent: float
    goodput: float
    statuses: Counter[str]
    p50_ms: float
    p99_ms: float


def message() -> bytes:
    """One row of four numbers."""
    request = SeldonMessage()
    request.data.tensor.shape.extend([1, 4])
    request.data.tensor.values.extend([1.0, 2.0, 3.0, 4.0])
    return request.SerializeToString()


@contextlib.contextmanager
def serving(command: Sequence[str], model: Model) -> Iterator[str]:
    """Runs `command serve` with the model until the block ends; yields its address."""
    with tempfile.TemporaryDirectory() as folder:
        model.write(Path(folder))
        process = subprocess.Popen(
            [*command, "serve", "--model-dir", folder, "--port", "0", "--log-level", "warning"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("READY "):
                raise RuntimeError(f"{' '.join(command)} did not start; the reason is above")
            address = line.split()[1]
            with grpc.insecure_channel(address) as channel:
                answer = channel.unary_unary(METHOD, response_deserializer=SeldonMessage.FromString)(
                    message(), timeout=30
                )
            if list(answer.data.tensor.values) != [1.0, 2.0, 3.0, 4.0]:
                raise RuntimeError(f"a wrong answer: {answer}")
            yield address
        finally:
            process.terminate()
            process.wait(60)


def measure(address: str, rate: float, seconds: float, deadline_s: float) -> Measured:
    """Sends `rate` calls a second for some seconds, after a warm-up with the same."""
    with OpenLoop(address, METHOD, message(), rate, deadline_s) as traffic:
        time.sleep(WARM_UP_S + seconds)
    begin = min(call.due_s for call in traffic.calls) + WARM_UP_S
    calls = [call for call in traffic.calls if call.due_s >= begin]
    took = sorted(call.took_s for call in calls if call.ok and call.took_s <= deadline_s)
    return Measured(
        len(calls) / seconds,
        len(took) / seconds,
        Counter(call.status for call in calls),
        1e3 * took[len(took) // 2] if took else float("nan"),
        1e3 * took[len(took) * 99 // 100] if took else float("nan"),
    )


def overload(
    command: Sequence[str], model: Model, loads: Sequence[float], seconds: float, deadline_s: float
) -> dict[float, Measured]:
    """What a worker of its own achieves at each load, a multiple of the model's capacity."""
    results: dict[float, Measured] = {}
    with serving(command, model) as address:
        for share in loads:
            results[share] = measure(address, share * model.capacity, seconds, deadline_s)
            print(f"  load {share:g}: {results[share].goodput:.0f}/s in time", file=sys.stderr, flush=True)
    return results


def main() -> int:
    usual = Model()
    parser = argparse.ArgumentParser(
        prog="overload",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument("--worker", help="command of the worker, in place of --dist's torch-worker-cpu.pex")
    parser.add_argument(
        "--loads", type=float, nargs="+", default=[0.5, 0.9, 1.2, 2, 3], help="of the capacity"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement [%(default)s]")
    parser.add_argument("--deadline-ms", type=float, default=200.0, help="of each call [%(default)s]")
    parser.add_argument("--base-ms", type=float, default=usual.base_ms, help="of a model call [%(default)s]")
    parser.add_argument("--row-ms", type=float, default=usual.row_ms, help="of a row in it [%(default)s]")
    parser.add_argument("--max-batch-size", type=int, default=usual.max_batch_size, help="[%(default)s]")
    options = parser.parse_args()
    model = Model(options.base_ms, options.row_ms, options.max_batch_size)
    pex = options.dist / "torch-worker-cpu.pex"
    if options.worker is not None:
        command = shlex.split(options.worker)
    else:
        command = [sys.executable, str(pex / "__main__.py" if pex.is_dir() else pex)]
    results = overload(command, model, options.loads, options.seconds, options.deadline_ms / 1e3)
    best = max(result.goodput for result in results.values())
    rows = [
        (
            f"{share:g}",
            f"{result.sent:.0f}",
            f"{result.goodput:.0f}",
            f"{result.goodput / best:.2f}",
            f"{result.statuses['RESOURCE_EXHAUSTED']}",
            f"{result.statuses['DEADLINE_EXCEEDED']}",
            f"{result.p50_ms:.0f}",
            f"{result.p99_ms:.0f}",
        )
        for share, result in results.items()
    ]
    head = ("load", "sent/s", "in time/s", "of the best", "refused", "too late", "p50 ms", "p99 ms")
    load.table(
        f"Deadline {options.deadline_ms:g} ms, capacity {model.capacity:.0f} rows/s ({load.machine()})",
        head,
        rows,
    )
    others = sum((result.statuses for result in results.values()), Counter[str]())
    for status in ("OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"):
        del others[status]
    if others:
        print(f"unexpected: {dict(others)}")
        return 1
    return 0 if results[max(results)].goodput >= BAR * best else 1


if __name__ == "__main__":
    sys.exit(main())
