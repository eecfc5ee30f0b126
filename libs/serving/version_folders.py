"""What lies in a folder of versions: the eyes of `versions`.

A version is a folder whose name is a decimal number, as in TensorFlow Serving. A folder that is a model itself, without
such folders, is its own version 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from libs.serving.versions import MAX_VERSION, Found

# Deeper than models nest their files, and an end to links that lead in a circle.
_MAX_DEPTH = 8


def scan(
    folder: Path, *, is_model: Callable[[Path], bool], counts: Callable[[str], bool] = lambda name: True
) -> dict[int, Found]:
    """The versions in a folder, by number; none when it is not there.

    Links are followed, and a version's path is where they lead: when a link is switched, what was loaded by it still
    finds its own files. Names that begin with a dot or are `__pycache__` are passed over.

    Args:
        is_model: whether the folder itself is a model.
        counts: whether a file of this name makes another model when it changes; others only have to hold still before
            a load. Files that a model writes beside itself, such as a log, must not have it loaded anew.

    Raises:
        OSError: the folder is there and cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
        if is_model(folder):
            return {1: look(folder, counts)}
        found: dict[int, Found] = {}
        for name in names:
            # Of names with one number, 1 and 001, the first in order of name counts.
            if is_version(name) and int(name) not in found and (folder / name).is_dir():
                found[int(name)] = look(folder / name, counts)
        return found
    except FileNotFoundError:
        return {}


def look(path: Path, counts: Callable[[str], bool] = lambda name: True) -> Found:
    """A version as it lies at path now.

    Raises:
        OSError: it cannot be read.
    """
    path = path.resolve()
    files = frozenset(_files(str(path), "", 0))
    return Found(path, frozenset(file for file in files if counts(file[0])), files)


def is_version(name: str) -> bool:
    """Whether a folder of this name is a version: a decimal number."""
    return name.isascii() and name.isdigit() and int(name) <= MAX_VERSION


def _files(folder: str, prefix: str, depth: int) -> Iterator[tuple[str, int, int, int]]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:  # deleted meanwhile
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        name = prefix + entry.name
        try:
            if entry.is_dir():
                if depth < _MAX_DEPTH:
                    yield from _files(entry.path, f"{name}/", depth + 1)
                continue
            status = entry.stat()
        except OSError:  # deleted meanwhile, or a link that leads nowhere yet
            continue
        yield name, status.st_size, status.st_mtime_ns, status.st_ino
