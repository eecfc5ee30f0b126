"""The `export` command: a trained model becomes a version that a server takes up."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from services.tf_serving import flag_types
from services.tf_serving.config import samples, sources
from services.tf_serving.config.exporting import Export, export, rows_of
from services.tf_serving.config.inspection import describe
from services.tf_serving.config.progress import Steps
from services.tf_serving.execution.batching_parameters import MOST
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model.versions import ModelError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EPILOG = """\
examples:
  a Keras file, as the next version of var/models/flowers:
    tf-serving export flowers.keras --out var/models --name flowers
  a SavedModel that something else wrote, with a request of real values to warm up with:
    tf-serving export /tmp/saved --out var/models --name textcnn-69 --sample utterance.json
  a checkpoint, with the function that builds its model:
    tf-serving export --checkpoint ckpt/model-1000 --model my_net:build --out var/models --name my_net

A sample is a .npz with an array for each input, or JSON: {"sentence": [["a", "b"]], "label": [""]}, rows first,
bytes as {"b64": "..."}. Without one, the warm-up requests that SOURCE has are kept, or zeros are tried. The version is
made in a hidden folder, loaded, warmed up, and then renamed to its number: a server that looks there sees all of it or
nothing. A Keras file or a model function may run code: export only what you trust.
Exit status: 0, 1 when the model cannot be made, loaded or answer its sample (then nothing is left), 2 for bad usage.
"""


def add_command(commands: Commands) -> None:
    """Make `export` known to the command line."""
    parser = commands.add_parser(
        "export",
        help="make a version of a Keras file, a SavedModel or a checkpoint",
        description="Make a SavedModel version with a warm-up file, checked, in its place in one step.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "source",
        type=Path,
        nargs="?",
        metavar="SOURCE",
        help="a .keras or .h5 file, or a SavedModel's folder",
    )
    add("--checkpoint", type=Path, metavar="CKPT", help="instead of SOURCE; a folder means its latest")
    add(
        "--model",
        metavar="MODULE:FUNCTION",
        help="builds the checkpoint's model: a tf.Module, a Keras model, or a "
        "pair of it and its signatures",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="the folder of all models")
    add("--name", type=_folder, required=True, metavar="NAME", help="the model's folder in it")
    add("--version", type=flag_types.between(0, 2**63 - 1), metavar="N", help="[the next]")
    add("--sample", type=Path, metavar="FILE", help="inputs to warm up with")
    add("--signature", default="", metavar="NAME", help="of the sample [the one that it fits]")
    add(
        "--batch-sizes",
        type=_sizes,
        default=(1,),
        metavar="N,N",
        help="numbers of rows to warm up for: the server's allowed_batch_sizes [1]",
    )
    add(
        "--import",
        dest="modules",
        type=flag_types.names,
        default=[],
        metavar="MODULE,...",
        help="loaded first: " "they register a Keras file's own classes",
    )
    add("--allow-code", action="store_true", help="run Python code that a Keras file holds (lambda layers)")
    parser.set_defaults(run=partial(run, parser))


def run(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    """Make the version; the exit status."""
    if bool(parsed.source) == bool(parsed.checkpoint):
        parser.error("expected either SOURCE or --checkpoint")
    if bool(parsed.checkpoint) != bool(parsed.model):
        parser.error(
            "--checkpoint and --model go together: the one has the values, the other builds the model"
        )
    steps = Steps()

    def make(target: Path) -> None:
        with steps.step("start TensorFlow"):
            tensorflow()
        for module in parsed.modules:
            sources.load_module(module)
        with steps.step(f"export {parsed.source or parsed.checkpoint}"):
            if parsed.source:
                sources.write(parsed.source, target, allow_code=parsed.allow_code)
            else:
                sources.write_checkpoint(parsed.checkpoint, parsed.model, target)

    try:
        wanted = Export(
            base_path=parsed.out / parsed.name,
            name=parsed.name,
            make=make,
            version=parsed.version,
            sample=samples.read(parsed.sample) if parsed.sample else None,
            signature=parsed.signature,
            rows=rows_of(parsed.batch_sizes),
        )
        made = export(wanted, steps)
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{made.version.path}: version {made.version.number}, {made.requests} warm-up requests")
    for name, signature in made.version.signatures.items():
        print(f"  {name}: {describe(signature)}")
    return 0


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(flag_types.between(1, MOST["max_batch_size"]), text.split(",")))


def _folder(text: str) -> str:
    if not text.strip() or "/" in text or text.startswith("."):
        raise argparse.ArgumentTypeError(f"expected a folder's name, got {text!r}")
    return text
