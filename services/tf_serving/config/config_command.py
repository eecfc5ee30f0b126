"""The `config` command: the files of a server from a folder of models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from libs.balancing.endpoint import Endpoint, EndpointError
from libs.balancing.nodefile import DEFAULT_TIMEOUT_MS, MAX_TASK_ID, MAX_TIMEOUT_MS
from libs.serving.versions import Policy, PolicyError, parse_policy
from services.tf_serving import flag_types
from services.tf_serving.config import generation
from services.tf_serving.config.generation import Asked, Generated
from services.tf_serving.config.placing import Change, Planned, place
from services.tf_serving.config.settings import Wishes, powers_up_to
from services.tf_serving.config.trial import answered_requests
from services.tf_serving.execution.batching_parameters import MOST
from services.tf_serving.model.versions import ModelError
from services.tf_serving.options import usable_cores
from services.tf_serving.serving.model_configs import LATEST

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

T = TypeVar("T")

EPILOG = """\
examples:
  for the embedded server on this machine, task ids by name (a folder textcnn-69 is task 69) or said:
    tf-serving config --models var/models --out var/config --task textcnn=69 --task half_plus_two=70
    tf-serving serve $(grep -v '^#' var/config/flags.txt)
  for TensorFlow Serving's image with the models in /models and the files in /config, on 16 cores and a GPU:
    tf-serving config --models models --out config --base-path /models --config-path /config --cores 16 --gpu
  what would change:
    tf-serving config --models models --out config --dry-run

writes OUT/models.config, batching.config, monitoring.config, nodefile.txt (the gateway's) and flags.txt, and for each
version that is served assets.extra/tf_serving_warmup_requests in its own folder. Only saved_model.pb is read; no graph
is run, but by --try-warm-up. A file that somebody else wrote is kept, unless --overwrite is given.
Exit status: 0, 1 when a model cannot be served (then nothing is written) or a file not be written, 2 for bad usage.
"""


def add_command(commands: Commands) -> None:
    """Make `config` known to the command line."""
    parser = commands.add_parser(
        "config",
        help="write the configuration of a server from a folder of models",
        description="Look at every SavedModel below a folder and write what TensorFlow Serving needs to serve them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_flags(parser)
    parser.set_defaults(run=partial(run, parser))


def run(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    """Write the files; the exit status."""
    asked = _asked(parser, parsed)
    try:
        generated = generation.generate(asked)
        for note in generated.notes:
            print(f"note: {note}", file=sys.stderr)
        if generated.errors:
            for error in generated.errors:
                print(f"error: {error}", file=sys.stderr)
            print("nothing was written; --skip-bad leaves such models out", file=sys.stderr)
            return 1
        if parsed.dry_run:
            return _dry_run(generated)
        for planned in generated.files:
            place(planned)
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _tell(asked, generated)
    return 0


def _dry_run(generated: Generated) -> int:
    for planned in generated.files:
        sys.stdout.write(planned.difference())
    changes = [planned for planned in generated.files if planned.change in (Change.NEW, Change.CHANGED)]
    print(f"{len(changes)} of {len(generated.files)} files would change", file=sys.stderr)
    return 0


def _tell(asked: Asked, generated: Generated) -> None:
    for line in generated.told:
        print(line)
    print()
    for planned in sorted(generated.files, key=_place_of):
        print(f"{planned.path}: {planned.change.value}")
    print(f"\nembedded server:    tf-serving serve --port 8500 $(grep -v '^#' {asked.out / 'flags.txt'})")
    image = "tensorflow/serving:2.19.1-gpu --gpus all" if asked.wishes.gpu else "tensorflow/serving:2.19.1"
    name, _, more = image.partition(" ")
    mounts = f"-v {asked.models.absolute()}:{asked.base_path} -v {asked.out.absolute()}:{asked.config_path}"
    print(
        f"TensorFlow Serving: docker run -p 8500:8500 -p 8501:8501 {f'{more} ' if more else ''}{mounts} {name} "
        f"$(grep -v '^#' {asked.out / 'flags.txt'})"
    )


def _place_of(planned: Planned) -> str:
    return str(planned.path)


def _asked(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> Asked:
    allowed: tuple[int, ...] | None = parsed.allowed_batch_sizes
    if allowed == _POWERS:
        allowed = powers_up_to(parsed.max_batch_size or Wishes(1).max_batch_size or 64)
    most = parsed.max_batch_size
    if allowed and most and allowed[-1] != most:
        parser.error(f"--allowed-batch-sizes must end in --max-batch-size, {most}; it ends in {allowed[-1]}")
    wishes = Wishes(
        parsed.cores,
        parsed.gpu,
        most,
        allowed,
        parsed.batch_timeout_micros,
        parsed.max_enqueued_batches,
    )
    labels: dict[str, dict[str, int]] = {}
    for model, (label, version) in parsed.label:
        labels.setdefault(model, {})[label] = version
    policies: dict[str, Policy] = dict(parsed.policy)
    models: Path = parsed.models
    return Asked(
        models=models,
        out=parsed.out,
        base_path=parsed.base_path or str(models.absolute()),
        config_path=parsed.config_path or str(parsed.out.absolute()),
        wishes=wishes,
        batching=parsed.batching,
        names=dict(parsed.name),
        tasks=dict(parsed.task),
        policy=policies.pop("", LATEST),
        policies=policies,
        labels=labels,
        instances=tuple(parsed.instances),
        timeout_ms=parsed.timeout_ms,
        warm_up=not parsed.no_warm_up,
        trial=answered_requests if parsed.try_warm_up else None,
        overwrite=parsed.overwrite,
        skip_bad=parsed.skip_bad,
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--models", type=Path, required=True, metavar="DIR", help="the folder that is searched for models")
    add("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    add("--dry-run", action="store_true", help="write nothing, show what would change")
    add("--overwrite", action="store_true", help="replace files that somebody else wrote, warm-up files too")
    add("--skip-bad", action="store_true", help="leave models out that cannot be served")
    paths = parser.add_argument_group("the server's view, when it is a container").add_argument
    paths("--base-path", type=_absolute, metavar="DIR", help="where it finds --models [the same]")
    paths("--config-path", type=_absolute, metavar="DIR", help="where it finds --out [the same]")
    models = parser.add_argument_group("models").add_argument
    models(
        "--name",
        type=_pair(flag_types.name),
        action="append",
        default=[],
        metavar="MODEL=NAME",
        help="what callers call it [its folder's name]; may be given again, as all of these",
    )
    models(
        "--task",
        type=_pair(flag_types.between(0, MAX_TASK_ID)),
        action="append",
        default=[],
        metavar="MODEL=NUMBER",
        help="its task at the gateway; a name that does not end in it gets it [what its name ends in]",
    )
    models(
        "--policy",
        type=_policy,
        action="append",
        default=[],
        metavar="[MODEL=]POLICY",
        help="versions that are served: latest, latest:N, all, or numbers with commas [latest]",
    )
    models(
        "--label",
        type=_pair(_label),
        action="append",
        default=[],
        metavar="MODEL=LABEL:VERSION",
        help="a name of a version",
    )
    models(
        "--instances",
        type=_endpoints,
        default=["127.0.0.1:8500"],
        metavar="HOST:PORT,...",
        help="for the node file",
    )
    models(
        "--timeout-ms",
        type=flag_types.between(1, MAX_TIMEOUT_MS),
        default=DEFAULT_TIMEOUT_MS,
        metavar="MS",
        help="for the node file [%(default)s]",
    )
    machine = parser.add_argument_group("the server's machine, and its batches").add_argument
    machine(
        "--cores",
        type=flag_types.between(1, 1024),
        default=usable_cores(),
        metavar="N",
        help="its cores [this machine's, %(default)s]",
    )
    machine("--gpu", action="store_true", help="models run on a GPU")
    machine(
        "--batching",
        choices=[generation.AUTO, generation.ON, generation.OFF],
        default=generation.AUTO,
        help="auto: where rows can share a run; off where rows of a call influence each other [%(default)s]",
    )
    machine(
        "--max-batch-size",
        type=flag_types.between(1, MOST["max_batch_size"]),
        metavar="ROWS",
        help="[64, GPU 256]",
    )
    machine(
        "--allowed-batch-sizes",
        type=_sizes,
        metavar="N,N|powers|none",
        help="numbers of rows that batches are filled up to [none; GPU: powers of two]",
    )
    machine(
        "--batch-timeout-micros",
        type=flag_types.between(0, MOST["batch_timeout_micros"]),
        metavar="US",
        help="how long a part batch waits [0, GPU 1000]",
    )
    machine(
        "--max-enqueued-batches",
        type=flag_types.between(1, MOST["max_enqueued_batches"]),
        metavar="N",
        help="full batches that may wait [10, or the cores]",
    )
    warm = parser.add_argument_group("warm-up requests").add_argument
    warm("--no-warm-up", action="store_true", help="write none")
    warm(
        "--try-warm-up",
        action="store_true",
        help="load each model and keep the requests of zeros that it answers; else only those are written that no "
        "model refuses: numbers, with nothing open but the number of rows",
    )


_POWERS = (0,)
"""Stands for the powers of two up to the maximum, which is not known while a flag is read."""


def _sizes(text: str) -> tuple[int, ...]:
    if text in ("none", "powers"):
        return () if text == "none" else _POWERS
    sizes = tuple(map(flag_types.between(1, MOST["max_batch_size"]), text.split(",")))
    if sorted(set(sizes)) != list(sizes):
        raise argparse.ArgumentTypeError(f"expected ascending numbers, got {text!r}")
    return sizes


def _pair(read: Callable[[str], T]) -> Callable[[str], tuple[str, T]]:
    """`model=value`."""

    def parse(text: str) -> tuple[str, T]:
        model, equals, value = text.partition("=")
        if not equals or not model:
            raise argparse.ArgumentTypeError(f"expected MODEL=VALUE, got {text!r}")
        return model, read(value)

    return parse


def _label(text: str) -> tuple[str, int]:
    label, _, version = text.rpartition(":")
    if not label or not (version.isascii() and version.isdigit()):
        raise argparse.ArgumentTypeError(f"expected LABEL:VERSION, got {text!r}")
    return label, int(version)


def _policy(text: str) -> tuple[str, Policy]:
    """`policy`, with the model "", or `model=policy`."""
    model, _, policy = text.rpartition("=")
    try:
        return model, parse_policy(policy)
    except PolicyError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _endpoints(text: str) -> list[str]:
    try:
        return [str(Endpoint.parse(part)) for part in text.split(",")]
    except EndpointError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"expected an absolute path, got {text!r}")
    return text
