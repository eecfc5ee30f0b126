"""Flags of the command line that say how a model runs: those of `serve` and `check`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

from services.torch_worker.config import DEFAULT_MAX_BATCH_SIZE, DEVICE_FORM
from services.torch_worker.model.model_config import AUTOCAST_TYPES, COMPILE_MODES


def number(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    """A parser of numbers between bounds, both included, whose errors say what was expected."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"expected a number from {low:.12g} to {high:.12g}, got {text!r}"
            )
        return value

    return parse


def _sizes(text: str) -> tuple[int, ...]:
    rows = number(int, 1, 1_000_000)
    return tuple(sorted({int(rows(part)) for part in text.split(",")}))


def _device(text: str) -> str:
    """Only its form: whether there is such a device, torch knows, which takes a second to import."""
    if re.fullmatch(DEVICE_FORM, text) is None:
        raise argparse.ArgumentTypeError(f"expected cpu, cuda, cuda:N or cuda:N,N, got {text!r}")
    return text


def add_model_flags(add: Callable[..., Any]) -> None:
    """Add the flags that WorkerConfig's fields of the model come from, with `ArgumentParser.add_argument`."""
    add(
        "--weights-only",
        action="store_true",
        help="take nothing but weights of the model file (safetensors, state dict): refuse pickled code, TorchScript "
        "and exported programs. The folder's *.py run all the same",
    )
    add(
        "--device",
        type=_device,
        default="cpu",
        metavar="cpu|cuda[:N[,N]]",
        help="where the model runs; several numbers: an instance on each (default %(default)s)",
    )
    add(
        "--instances",
        type=number(int, 1, 1024),
        metavar="N",
        help="model calls that may run at a time, each on a copy of the model, per device (default: 1)",
    )
    add(
        "--autocast",
        choices=AUTOCAST_TYPES,
        help="run floating operators in that type where PyTorch deems it safe (default: off)",
    )
    add(
        "--compile",
        nargs="?",
        const="default",
        choices=COMPILE_MODES,
        help="compile the model with torch.compile before it is ready (default: off)",
    )
    add(
        "--cuda-graphs",
        action="store_const",
        const=True,
        help="record the model call of each preferred batch size as a CUDA graph (default: off)",
    )
    add(
        "--max-batch-size",
        type=number(int, 1, 1_000_000),
        metavar="ROWS",
        help=f"most rows in one model call (default: config.toml's, else {DEFAULT_MAX_BATCH_SIZE})",
    )
    add(
        "--preferred-batch-sizes",
        type=_sizes,
        metavar="N,N",
        help="rows that a batch is cut down to: the largest of these that the waiting rows fill (default: any)",
    )
    add(
        "--max-delay-ms",
        type=number(float, 0, 10_000),
        metavar="MS",
        help="longest time that an incomplete batch is held for callers about to return; 0: never. How long it is "
        "held is learned, and a lone request never waits (default: config.toml's, else as the model's speed allows)",
    )
    add(
        "--threads",
        type=number(int, 0, 1024),
        metavar="N",
        help="CPU threads of one model call; 0: chosen from the cores that may be used (default)",
    )


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """WorkerConfig's fields that the flags of `add_model_flags` say."""
    return {name: getattr(args, name) for name in _FIELDS}


_FIELDS = (
    "weights_only",
    "device",
    "instances",
    "autocast",
    "compile",
    "cuda_graphs",
    "max_batch_size",
    "preferred_batch_sizes",
    "max_delay_ms",
    "threads",
)
