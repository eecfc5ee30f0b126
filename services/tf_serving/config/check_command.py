"""The `check` command: every mistake in a server's files, and between them and the models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from services.tf_serving.config import checking
from services.tf_serving.config.checking import Report
from services.tf_serving.config.inspection import InspectedVersion
from services.tf_serving.config.models_check import Batched, Places, check_models
from services.tf_serving.execution.batching_parameters import BatchingParameters

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EPILOG = """\
examples:
  tf-serving check --models-config models.config --batching-config batching.config
  files of a container, whose /models is ./models here:
    tf-serving check --models-config models.config --models models --base-path /models
  and answer the warm-up requests, as the server will before it serves:
    tf-serving check --models-config models.config --play

Each mistake is a line, FILE:LINE: FIELD: what is wrong, and what is expected. Exit status: 0 when there is none (what
the files say is printed), 1 when there are some, 2 for bad usage.
"""


def add_command(commands: Commands) -> None:
    """Make `check` known to the command line."""
    parser = commands.add_parser(
        "check",
        help="say every mistake in a server's configuration",
        description="Hold a server's files against their formats, against each other and against the models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models-config", type=Path, metavar="FILE", help="a ModelServerConfig")
    add("--batching-config", type=Path, metavar="FILE", help="BatchingParameters")
    add("--monitoring-config", type=Path, metavar="FILE", help="a MonitoringConfig")
    add("--models", type=Path, metavar="DIR", help="where the server's --base-path is here [the same]")
    add(
        "--base-path",
        type=Path,
        default=Path("/models"),
        metavar="DIR",
        help="the folder that the server finds the models in [%(default)s]",
    )
    add(
        "--per-model-batching",
        action="store_true",
        help="the server runs with --enable_per_model_batching_parameters",
    )
    add("--play", action="store_true", help="load the models and answer their warm-up requests")
    parser.set_defaults(run=partial(run, parser))


def run(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    """Check the files; the exit status."""
    files = (parsed.models_config, parsed.batching_config, parsed.monitoring_config)
    if not any(files):
        parser.error("one of these is required: --models-config, --batching-config, --monitoring-config")
    report = Report()
    parameters = checking.check_batching(parsed.batching_config, report) if parsed.batching_config else None
    if parameters is None and parsed.per_model_batching:
        parameters = BatchingParameters()
    if parsed.monitoring_config:
        checking.check_monitoring(parsed.monitoring_config, report)
    if parsed.models_config:
        check_models(
            parsed.models_config,
            Places(parsed.models, parsed.base_path),
            Batched(parameters, parsed.per_model_batching),
            report,
            _play if parsed.play else None,
        )
    return _tell(report)


def _tell(report: Report) -> int:
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    for mistake in report.mistakes:
        print(f"error: {mistake}", file=sys.stderr)
    if report.mistakes:
        plural = "mistake" if len(report.mistakes) == 1 else "mistakes"
        print(f"{len(report.mistakes)} {plural}", file=sys.stderr)
        return 1
    for line in report.summary:
        print(line)
    return 0


def _play(name: str, version: InspectedVersion, records: Sequence[bytes]) -> str:
    from services.tf_serving.config.trial import answered

    return answered(name, version, records)
