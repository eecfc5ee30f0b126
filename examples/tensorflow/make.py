"""Make the TensorFlow example models as version folders that TensorFlow Serving and tf-serving load."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from examples.tensorflow import expected
from services.tf_serving.execution.runtime import tensorflow

VERSION = "1"

EPILOG = """\
examples:
  python -m examples.tensorflow.make --out var/models                   make what is missing
  python -m examples.tensorflow.make --out var/models --only textcnn    one model
  python -m examples.tensorflow.make --out var/models --force           make them again

writes:
  OUT/half_plus_two/1/    signature serving_default: x float (-1, 1) -> y float (-1, 1), y = x / 2 + 2
  OUT/textcnn/1/          signatures prediction and serving_default:
                          sentence string (-1, 72), label string (-1)
                          -> output string (-1, 3), score float (-1, 3); trained in well under a minute
"""


def _half_plus_two(path: str) -> str:
    from examples.tensorflow.half_plus_two.half_plus_two import save

    save(path)
    return "y = x / 2 + 2"


def _textcnn(path: str) -> str:
    from examples.tensorflow.textcnn.train import save, train

    model, report = train()
    save(model, path)
    return (
        f"accuracy {report.train_accuracy:.1%} on {report.train_size} training utterances, "
        f"{report.held_out_accuracy:.1%} on {report.held_out_size} held out"
    )


MODELS: dict[str, Callable[[str], str]] = {"half_plus_two": _half_plus_two, "textcnn": _textcnn}
"""Each writes a SavedModel to the given folder and returns a line about it."""


def place(write: Callable[[str], str], target: Path) -> str:
    """Let `write` fill a temporary folder beside `target`, then rename: no server sees half a version.

    An existing `target` is replaced. Nothing is left behind when `write` fails.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not a number, so version scans skip it; beside the target, so that the rename stays on one disk.
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        made = work / "new"
        line = write(str(made))
        if target.exists():
            target.rename(work / "old")
        made.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.tensorflow.make",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("var/models"), help="folder for the models [var/models]"
    )
    parser.add_argument(
        "--only", action="append", choices=sorted(MODELS), help="make this one; may be repeated"
    )
    parser.add_argument("--force", action="store_true", help="make again what exists already")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(argv)
    missing = []
    for name in options.only or MODELS:
        target = options.out / name / VERSION
        if target.exists() and not options.force:
            print(f"{name}: {target} exists already")
        else:
            missing.append((name, target))
    if missing:
        tensorflow()  # quietly, before the makers import it
    for name, target in missing:
        started = time.monotonic()
        print(f"{name}: making {target}", flush=True)
        line = place(MODELS[name], target)
        if name == "textcnn":
            expected.write_textcnn(target.parent, VERSION)
        print(f"{name}: {line} ({time.monotonic() - started:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
