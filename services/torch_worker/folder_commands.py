"""The commands `torch-worker check` and `torch-worker prepare`, about model folders and without a server."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from libs.serving.metrics import Metrics
from libs.serving.version_folders import scan
from services.torch_worker.config import ConfigError, WorkerConfig
from services.torch_worker.flags import add_model_flags, model_options
from services.torch_worker.model.folder import REQUIREMENTS_FILE, is_model_folder

_CHECK = """\
Loads the folder and warms it up as `serve` does, prints what it found and ends: exit status 0 if it can be served,
1 if not, with the reason. Of a folder of versions (DIR/1, DIR/2 ...) it does each. The folder's code runs. The flags
that say how a model runs are those of `serve`; --log-level info tells what calls take.
"""
_PREPARE = """\
Installs what the folder's requirements.txt asks for into DIR/.packages with pip, whose own settings (PIP_INDEX_URL,
pip.conf) hold. The worker's own packages are never replaced: torch, numpy and the others stay at the versions that are
there, and requirements that contradict these fail. `serve` installs nothing; it refuses a folder whose requirements are
not there. Run it again when requirements.txt has changed, and restart a worker that serves the folder.
"""

# Nothing is under way by then.
_CLOSE_S = 5.0


def add_commands(commands: Any) -> None:
    """Add the commands to the parser's."""
    check = commands.add_parser(
        "check",
        help="load a model folder and say what it holds",
        description=_CHECK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  torch-worker check --model-dir var/models/mmoe",
    )
    _common(check)
    add_model_flags(check.add_argument)
    check.set_defaults(run=run_check)
    prepare = commands.add_parser(
        "prepare",
        help="install what a model folder requires",
        description=_PREPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  torch-worker prepare --model-dir var/models/textcnn",
    )
    _common(prepare)
    prepare.set_defaults(run=run_prepare)


def _folders(path: Path) -> list[Path]:
    """The model folders at path: path itself, or those of its versions, by number."""
    versions = scan(path.absolute(), is_model=is_model_folder)
    return [versions[number].path for number in sorted(versions)] or [path]


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-dir", required=True, type=Path, metavar="DIR", help="a model folder, or a folder of versions"
    )
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="warning",
        help="default %(default)s",
    )


def run_check(args: argparse.Namespace) -> int:
    """Run `torch-worker check`; returns the exit status."""
    # torch takes a second to import, which a mistyped command should not wait for.
    from services.torch_worker.model.describe import describe
    from services.torch_worker.model.loading import LoadedModel
    from services.torch_worker.serving.assembly import Assembler

    status = 0
    for folder in _folders(args.model_dir):
        config = WorkerConfig(str(folder.absolute()), **model_options(args))
        assembler = Assembler(config, Metrics({"model": config.model_name}))
        held: list[LoadedModel] = []
        try:
            servable = assembler.load(folder, held.append)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
        except (Exception, SystemExit) as error:  # the folder's code may raise anything
            print(f"error: {folder}: {type(error).__name__}: {error}", file=sys.stderr)
            status = 1
        else:
            for name, text in describe(held[0]):
                print(f"{name:<16} {text}")
            asyncio.run(servable.close(_CLOSE_S))
    return status


def run_prepare(args: argparse.Namespace) -> int:
    """Run `torch-worker prepare`; returns the exit status."""
    from services.torch_worker.model.prepare import prepare

    for folder in _folders(args.model_dir):
        if not folder.is_dir():
            print(f"error: {folder}: no such model folder", file=sys.stderr)
            return 1
        try:
            installed = prepare(folder)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        if not (folder / REQUIREMENTS_FILE).is_file():
            print(f"{folder}: no {REQUIREMENTS_FILE}, nothing to do")
        else:
            print(f"{folder}: installed {', '.join(installed) or 'nothing, all is there'}")
    return 0
