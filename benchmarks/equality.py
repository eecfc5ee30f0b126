"""Whether sharing model calls changes answers: many mixed requests from concurrent callers, each answer compared with
what the bare model says to that request alone."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks import load
from benchmarks.images import KSERVE, SELDON, python, worker
from libs.proto.kserve import InferTensor, decode_response, encode_request
from libs.proto.seldon import DataKind, decode_message, encode_message, encode_meta

MIXED = Path(__file__).parent / "peers" / "mixed.py"
NAMES = ("experts", "digits", "text", "heads", "pair", "anything")
# A batched product adds in another order than a single one. Relative to the largest value of the answer.
TOLERANCE = 1e-4
TIMEOUT_S = 60.0
EPILOG = """\
The models: a mixture of experts with two heads, pictures with batched hooks (1 % of whose requests a hook refuses),
texts of 1 to 60 words padded to share calls, outputs of three shapes and types, inputs by name one of which is
optional, and one that takes any type and shape. Requests have 1 to 17 rows. Most go by KServe, those of the experts by
Seldon too.
"""


@dataclass(slots=True)
class Case:
    """A request: its method and message, its inputs' types and shapes, and the bare model's outputs; none where it
    must be refused."""

    method: str
    message: bytes
    form: str
    outputs: list[Any] = field(default_factory=list)


def cases(folder: Path) -> list[Case]:
    """The requests that lie beside a model."""
    inputs: dict[int, dict[str, Any]] = {}
    outputs: dict[int, list[Any]] = {}
    with np.load(folder / "requests.npz") as arrays:
        for key in arrays.files:
            index, side, name = key.split("/")
            if side == "in":
                inputs.setdefault(int(index), {})[name] = arrays[key]
            else:
                outputs.setdefault(int(index), []).append(arrays[key])
    found = []
    for index, named in inputs.items():
        form = " ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in sorted(named.items()))
        if folder.name == "experts" and index % 2:
            message = encode_message(DataKind.TENSOR, named["x"], meta=encode_meta(tags={"taskId": 1}))
            found.append(Case(SELDON, message, form, outputs.get(index, [])))
        else:
            tensors = [InferTensor.of(name, array) for name, array in named.items()]
            found.append(Case(KSERVE, encode_request(folder.name, tensors), form, outputs.get(index, [])))
    return found


def verdict(case: Case, answer: bytes | grpc.StatusCode) -> str:
    """`right`, `refused`, `wrong`, or the status of a call that was lost."""
    if isinstance(answer, grpc.StatusCode):
        refused = answer is grpc.StatusCode.INVALID_ARGUMENT and not case.outputs
        return "refused" if refused else f"lost ({answer.name})"
    if case.method == SELDON:
        given = [decode_message(answer).payload]
    else:
        given = [tensor.array for tensor in decode_response(answer).outputs]
    if len(given) != len(case.outputs):
        return "wrong"
    return "right" if all(map(equal, given, case.outputs)) else "wrong"


def equal(given: Any, expected: Any) -> bool:
    """Whether two arrays have one shape and values that differ by no more than rounding does."""
    if given.shape != expected.shape:
        return False
    if expected.dtype.kind in "iub" or expected.size == 0:
        return bool(np.array_equal(given, expected))
    scale = float(np.abs(expected).max())
    return bool(np.allclose(given, expected, rtol=TOLERANCE, atol=TOLERANCE * scale))


async def ask(address: str, chosen: Sequence[Case], in_flight: int) -> Counter[str]:
    """Verdicts over requests of so many callers at a time."""
    verdicts: Counter[str] = Counter()
    waiting = iter(chosen)

    async def caller(channel: grpc.aio.Channel) -> None:
        calls = {method: channel.unary_unary(method) for method in (SELDON, KSERVE)}
        for case in waiting:
            answer: bytes | grpc.StatusCode
            try:
                answer = await calls[case.method](case.message, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                answer = error.code()
            verdicts[verdict(case, answer)] += 1

    channels = [grpc.aio.insecure_channel(address) for _ in range(4)]
    await asyncio.gather(*(caller(channels[n % len(channels)]) for n in range(in_flight)))
    await asyncio.gather(*(channel.close() for channel in channels))
    return verdicts


def model_calls(address: str) -> float:
    """How many calls of the model the worker counts."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("serving_batch_rows_count") and "/preprocess" not in line
    )


def measure(options: argparse.Namespace, name: str) -> tuple[Counter[str], tuple[str, ...]]:
    """Verdicts over one model's requests, and the row of the table."""
    folder = options.work / name
    drawn = cases(folder)
    rng = np.random.default_rng(options.seed)
    count = -(-options.requests // len(options.only))
    chosen = [drawn[i] for i in rng.integers(0, len(drawn), count)]
    with worker(options, folder) as (address, _):
        start, before = time.monotonic(), model_calls(address)
        verdicts = asyncio.run(ask(address, chosen, options.in_flight))
        calls, seconds = model_calls(address) - before, time.monotonic() - start
    wrong = sum(number for text, number in verdicts.items() if text not in ("right", "refused"))
    row = (
        name,
        str(count),
        str(len({case.form for case in drawn})),
        f"{count / max(calls, 1):.1f}",
        f"{count / seconds:.0f}",
        str(verdicts["refused"]),
        str(wrong),
    )
    print("  " + "  ".join(row), dict(verdicts), file=sys.stderr)
    return verdicts, row


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="equality",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    add("--python", help="a Python with PyTorch, to run the worker from its sources instead of the PEX")
    add(
        "--work", type=Path, default=Path("var/benchmarks/equality"), help="for models and logs [%(default)s]"
    )
    add(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)} [all]"
    )
    add("--requests", type=int, default=100_000, help="of all models together [%(default)s]")
    add(
        "--distinct",
        type=int,
        default=2000,
        help="requests that those of a model are drawn from [%(default)s]",
    )
    add("--in-flight", type=int, default=64, help="concurrent callers [%(default)s]")
    add("--seed", type=int, default=58, help="of models and requests [%(default)s]")
    add("--worker-flags", nargs=argparse.REMAINDER, default=[], help="further flags of the worker; last")
    options = parser.parse_args(argv)
    command, environment = python(options)
    options.work = options.work.absolute()
    subprocess.run(
        [*command, str(MIXED), str(options.work), str(options.distinct), str(options.seed)],
        env=environment,
        check=True,
    )
    total: Counter[str] = Counter()
    table = []
    for name in options.only:
        verdicts, row = measure(options, name)
        total += verdicts
        table.append(row)
    head = (
        "model",
        "requests",
        "types and shapes",
        "requests a model call",
        "requests/s",
        "refused",
        "mismatches",
    )
    load.table(f"Answers under batching against those alone ({load.machine()})", head, table)
    wrong = {text: number for text, number in total.items() if text not in ("right", "refused")}
    print(
        f"\n{sum(total.values())} requests: {total['right']} right, {total['refused']} refused as they must be, "
        f"{sum(wrong.values())} mismatches {wrong or ''}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
