"""A version in its place: made beside it, looked at, loaded, warmed up, and only then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.tf_serving.config import samples, synthetic, tfrecord, trial
from services.tf_serving.config.inspection import InspectedVersion, inspect
from services.tf_serving.config.progress import Steps
from services.tf_serving.config.samples import Sample
from services.tf_serving.model import warmup
from services.tf_serving.model.versions import ModelError, scan

_TRIES = 20
"""Of taking a version's number, while others take theirs."""

_FOLDER_MODE = 0o755
"""mkdtemp's 0700 would keep a server out that runs as somebody else."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be made.

    Attributes:
        base_path: the model's folder of versions.
        name: what callers call it; in the warm-up requests.
        version: its number; None for the next.
        make: writes the SavedModel to a folder that is not there yet.
        rows: numbers of rows of the warm-up requests.
        signature: of the sample; "" for the one that it fits.
    """

    base_path: Path
    name: str
    make: Callable[[Path], None]
    version: int | None = None
    sample: Sample | None = None
    signature: str = ""
    rows: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was made: the version as it lies there, its warm-up requests, and notes."""

    version: InspectedVersion
    requests: int
    notes: tuple[str, ...]


def export(wanted: Export, steps: Steps) -> Exported:
    """Make the version. Whatever fails leaves nothing behind.

    Raises:
        ModelError: it cannot be made, be loaded, or answer its sample. OSError.
    """
    first = not wanted.base_path.exists()
    wanted.base_path.mkdir(parents=True, exist_ok=True)
    if wanted.version is not None and (wanted.base_path / str(wanted.version)).exists():
        raise _taken(wanted, wanted.version)
    # Not a number, so no server takes it for a version; beside the others, so that the rename stays on one disk.
    work = Path(tempfile.mkdtemp(prefix=".export-", dir=wanted.base_path))
    try:
        made = work / "new"
        wanted.make(made)
        version = inspect(0, made)
        if version.problem:
            raise ModelError(version.problem.replace(f"{made} ", "the model "))
        with steps.step("load it and answer its warm-up requests"):
            records, notes = _warm_up(wanted, version)
        made.chmod(_FOLDER_MODE)
        placed = _place(wanted, made)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if first:
            with contextlib.suppress(OSError):  # it holds the version, as it should
                wanted.base_path.rmdir()
    return Exported(
        InspectedVersion(int(placed.name), placed, version.signatures), len(records), tuple(notes)
    )


def _warm_up(wanted: Export, version: InspectedVersion) -> tuple[list[bytes], list[str]]:
    """The records that the model has answered, which then are in its file, and why there are no more."""
    file = version.path / warmup.FILE
    if wanted.sample is None and file.exists():
        kept = warmup.read(file)
        problem = trial.answered(wanted.name, version, kept)
        if problem:
            raise ModelError(f"the model's own {warmup.FILE}: {problem}")
        return kept, []
    records, notes = _new_records(wanted, version)
    if records:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(tfrecord.encode(records))
    return records, notes


def _new_records(wanted: Export, version: InspectedVersion) -> tuple[list[bytes], list[str]]:
    if wanted.sample is not None:
        signature = samples.choose(wanted.sample, version.signatures, wanted.signature)
        records = samples.records(wanted.name, wanted.sample, signature, wanted.rows)
        problem = trial.answered(wanted.name, version, records)
        if problem:
            raise ModelError(f"{wanted.sample.file}: {problem}")
        return records, []
    requests, reasons = trial.answered_requests(wanted.name, version, wanted.rows)
    notes = [f"no warm-up request for {signature}: {reason}" for signature, reason in reasons.items()]
    hint = ["--sample gives it a request of real values"] if notes else []
    return synthetic.file_records(requests), [*notes, *hint]


def _place(wanted: Export, made: Path) -> Path:
    for _ in range(_TRIES):
        number = wanted.version
        if number is None:
            versions = scan(wanted.base_path)
            number = versions[-1].number + 1 if versions else 1
        target = wanted.base_path / str(number)
        # rename() replaces an empty folder without a word, and fails on one that is not.
        if not target.exists():
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                return _renamed(made, target)
        if wanted.version is not None:
            raise _taken(wanted, number)
    raise ModelError(f"{wanted.base_path}: others took {_TRIES} versions meanwhile; try again")


def _renamed(made: Path, target: Path) -> Path:
    try:
        os.rename(made, target)
    except OSError as error:
        if error.errno in (39, 66):  # not empty, as Linux and others number it
            raise FileExistsError(str(target)) from error
        raise
    return target


def _taken(wanted: Export, number: int) -> ModelError:
    return ModelError(
        f"{wanted.base_path / str(number)} is there already, and a version never changes: leave --version out"
    )


def rows_of(sizes: Sequence[int]) -> tuple[int, ...]:
    """Numbers of rows to warm up for, ascending and each once."""
    return tuple(sorted(set(sizes)))
