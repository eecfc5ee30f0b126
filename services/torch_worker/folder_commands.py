"""The commands `torch-worker check` and `torch-worker prepare`, about model folders and without a server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from libs.serving.version_folders import scan
from services.torch_worker.config import ConfigError
from services.torch_worker.model.folder import REQUIREMENTS_FILE, is_model_folder

_CHECK = """\
Loads the folder as `serve` does, prints what it found and ends: exit status 0 if it can be served, 1 if not, with the
reason. Of a folder of versions (DIR/1, DIR/2 ...) it does each. The folder's code runs.
"""
_PREPARE = """\
Installs what the folder's requirements.txt asks for into DIR/.packages with pip, whose own settings (PIP_INDEX_URL,
pip.conf) hold. The worker's own packages are never replaced: torch, numpy and the others stay at the versions that are
there, and requirements that contradict these fail. `serve` installs nothing; it refuses a folder whose requirements are
not there. Run it again when requirements.txt has changed, and restart a worker that serves the folder.
"""


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
    check.add_argument(
        "--device", default="cpu", metavar="cpu|cuda[:N]", help="where it is loaded (default %(default)s)"
    )
    check.add_argument("--weights-only", action="store_true", help="as `serve --weights-only`")
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
    from services.torch_worker.execution.devices import resolve_devices
    from services.torch_worker.model.describe import describe
    from services.torch_worker.model.loading import open_model

    status = 0
    for folder in _folders(args.model_dir):
        try:
            device = resolve_devices(args.device)[0]
            loaded = open_model(folder, device, weights_only=args.weights_only)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
            continue
        for name, text in describe(loaded):
            print(f"{name:<16} {text}")
        loaded.namespace.close()
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
