"""Tells when the node file's content changed, however it was changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import awatch

# A file that is written in pieces must be whole before it is read: its bytes have to hold still this long.
SETTLE_S = 0.05
_SETTLE_TRIES = 40
# Where inotify does not reach (some network file systems) the file is compared this often anyway.
_POLL_MS = 2000


async def changes(path: Path, known: bytes | None) -> AsyncIterator[bytes]:
    """Yields the file's bytes each time they differ from the last ones, starting from `known`.

    Directories are watched, not the file: editors replace it by a rename, and Kubernetes swaps a link beside
    it. A file that is away for a moment, or cannot be read, is waited for.
    """
    while True:
        folders = _folders(path)
        watcher = awatch(
            *folders, recursive=False, step=20, debounce=100, rust_timeout=_POLL_MS, yield_on_timeout=True
        )
        async with contextlib.aclosing(watcher):
            async for _ in watcher:
                data = await _settled(path)
                if data is not None and data != known:
                    known = data
                    yield data
                if _folders(path) != folders:
                    break  # the link leads elsewhere now: watch there


def _folders(path: Path) -> list[Path]:
    """Where changes show: beside the path as given, and beside the file that it leads to."""
    return sorted({path.absolute().parent, path.resolve().parent})


async def _settled(path: Path) -> bytes | None:
    """The file's bytes once two reads agree; None when there is no file or it never holds still."""
    before = _read(path)
    for _ in range(_SETTLE_TRIES):
        await asyncio.sleep(SETTLE_S)
        after = _read(path)
        if after == before:
            return after
        before = after
    return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
