"""Putting files in their places: whole or not at all, and never over what somebody else wrote."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

_MODE = 0o644
"""Servers run as somebody else than who writes their files; mkstemp's 0600 would keep them out."""


class Change(Enum):
    """What a file's writing comes to."""

    NEW = "written"
    CHANGED = "changed"
    SAME = "unchanged"
    KEPT = "kept: somebody else wrote it; --overwrite replaces it"


@dataclass(frozen=True, slots=True)
class Planned:
    """A file that is to be, and what that changes."""

    path: Path
    content: bytes
    change: Change
    before: bytes = b""

    def difference(self) -> str:
        """A unified diff of texts; of other files their sizes."""
        if self.change in (Change.SAME, Change.KEPT):
            return ""
        try:
            before, after = self.before.decode(), self.content.decode()
        except UnicodeDecodeError:
            return f"{self.path}: {len(self.before)} -> {len(self.content)} bytes\n"
        if "\0" in before + after:
            return f"{self.path}: {len(self.before)} -> {len(self.content)} bytes\n"
        names = ("/dev/null" if self.change is Change.NEW else str(self.path), str(self.path))
        return "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), *names))


def plan(path: Path, content: bytes, is_ours: Callable[[bytes], bool], *, overwrite: bool) -> Planned:
    """What writing the file would change. Raises OSError when what is there cannot be read.

    Args:
        is_ours: whether a file of such bytes may be replaced without being asked.
    """
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        return Planned(path, content, Change.NEW)
    if before == content:
        return Planned(path, content, Change.SAME, before)
    if not overwrite and not is_ours(before):
        return Planned(path, content, Change.KEPT, before)
    return Planned(path, content, Change.CHANGED, before)


def place(planned: Planned) -> None:
    """Write the file where it is new or changed: in one step, as those who read it see it. Raises OSError."""
    if planned.change in (Change.SAME, Change.KEPT):
        return
    folder = planned.path.parent
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{planned.path.name}-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(planned.content)
            file.flush()
            os.fchmod(descriptor, _MODE)
            os.fsync(descriptor)
        os.replace(name, planned.path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
