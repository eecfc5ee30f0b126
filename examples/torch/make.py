"""Make the PyTorch example models: `python -m examples.torch.make --out var/models`.

Each becomes a model folder that the torch worker serves as it is: the whole model pickled as model.pth, the
class file that the pickle refers to beside it, and, where the model has hooks, processor.py.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import torch

from examples.torch import expected
from examples.torch.digits import digits_net, processor
from examples.torch.digits import train as digits_train
from examples.torch.importing import import_file
from examples.torch.mmoe import mmoe_net
from examples.torch.mmoe import train as mmoe_train

log = logging.getLogger("examples.torch")


def make_digits(folder: Path) -> str:
    """Fill folder with the digits model, its hooks and samples/<label>-<n>.png; say how good it is."""
    net_module = place_module(digits_net, folder)
    place_source(processor, folder)
    net, accuracy = digits_train.train(net_module.DigitsNet, folder / "samples")
    torch.save(net, folder / "model.pth")
    expected.write_digits(folder)
    return f"test accuracy {accuracy:.2%}"


def make_mmoe(folder: Path) -> str:
    """Fill folder with the two-headed mixture of experts."""
    net_module = place_module(mmoe_net, folder)
    net, loss = mmoe_train.train(net_module.MMoE, net_module.FEATURES)
    torch.save(net, folder / "model.pth")
    expected.write_mmoe(folder)
    return f"training loss {loss:.3f}"


MAKERS: dict[str, Callable[[Path], str]] = {"digits": make_digits, "mmoe": make_mmoe}


def place_source(module: ModuleType, folder: Path) -> Path:
    """Copy the source file of module into folder."""
    assert module.__file__ is not None
    target = folder / Path(module.__file__).name
    shutil.copyfile(module.__file__, target)
    return target


def place_module(module: ModuleType, folder: Path) -> ModuleType:
    """Copy module's source into folder and import that copy under its bare file name, for the pickle to name."""
    return import_file(place_source(module, folder))


def make(name: str, out: Path, *, force: bool) -> bool:
    """Make the model folder out/name unless it is there (or force is set); return whether it was made.

    The folder is filled under a temporary name and renamed into place, so that one that exists is whole.
    """
    target = out / name
    if (target / "model.pth").exists() and not force:
        log.info("%s: %s is there, skipped (--force makes it again)", name, target)
        return False
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=out))
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        quality = MAKERS[name](fresh)
        if target.exists():
            target.rename(scratch / "old")
        fresh.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    log.info("%s: made %s (%s)", name, target, quality)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.torch.make",
        description="Make the PyTorch example models; what exists is kept.",
        epilog="example: python -m examples.torch.make --out var/models --only digits --force",
    )
    parser.add_argument("--out", type=Path, default=Path("var/models"), help="folder for the model folders")
    parser.add_argument("--only", choices=sorted(MAKERS), action="append", help="make this one (repeatable)")
    parser.add_argument("--force", action="store_true", help="make again what exists")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # The networks are tiny: further threads gain nothing, and on a busy machine they wait for each other.
    torch.set_num_threads(1)
    try:
        for name in args.only or sorted(MAKERS):
            make(name, args.out, force=args.force)
    except (OSError, RuntimeError) as error:
        log.error("could not make the example models: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
