"""The version folders of a model: which exist, and which one is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")
"""A folder is a SavedModel when it holds one of these."""

_MAX_VERSION = 2**63 - 1


class ModelError(ValueError):
    """A model cannot be served from where it was looked for. The message is for the operator."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """One version of a model on disk."""

    number: int
    path: Path


def scan(base_path: Path) -> list[Version]:
    """All version folders under `base_path`, ascending. As in TensorFlow Serving a version is a folder whose
    name is a decimal number that fits an int64; everything else is passed over. Of names with the same number
    (`1`, `001`) the first in order of name counts.

    Raises:
        ModelError: `base_path` is not a folder that can be listed.
    """
    if not base_path.exists():
        raise ModelError(f"could not find the model base path {base_path}")
    if not base_path.is_dir():
        raise ModelError(
            f"the model base path {base_path} is a file; expected a folder of version folders such as 1/"
        )
    found: dict[int, Version] = {}
    try:
        names = sorted(entry.name for entry in base_path.iterdir() if entry.is_dir())
    except OSError as error:
        raise ModelError(f"cannot list the model base path {base_path}: {error.strerror}") from error
    for name in names:
        if name.isascii() and name.isdigit() and int(name) <= _MAX_VERSION:
            found.setdefault(int(name), Version(int(name), base_path / name))
    return sorted(found.values())


def latest(base_path: Path) -> Version:
    """The version with the highest number.

    Raises:
        ModelError: there is none, or it is not a SavedModel. Says what to do.
    """
    versions = scan(base_path)
    if not versions:
        hint = "name the SavedModel's folder as a number, for example 1/"
        if any((base_path / name).exists() for name in GRAPH_FILES):
            hint = f"this folder itself is a SavedModel: move it into {base_path}/1"
        raise ModelError(f"no versions of the model found under {base_path}; {hint}")
    newest = versions[-1]
    check_saved_model(newest.path)
    return newest


def check_saved_model(path: Path) -> None:
    """A version's folder has a graph. Raises ModelError."""
    if not any((path / name).exists() for name in GRAPH_FILES):
        raise ModelError(f"{path} is not a SavedModel: it has no {' or '.join(GRAPH_FILES)}")
