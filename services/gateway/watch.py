"""Tells when the node file's content changed, however it was changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

from watchfiles import awatch

log = logging.getLogger(__name__)

# A file that is written in pieces must be whole before it is read: its bytes have to hold still this long.
SETTLE_S = 0.05
_SETTLE_TRIES = 40
# Where inotify does not reach (some network file systems) the file is compared this often anyway.
_POLL_MS = 2000
# After a watch that could not be set up: a folder that is being replaced, or no inotify instance left.
RETRY_S = 2.0


async def changes(path: Path, known: bytes | None) -> AsyncGenerator[bytes]:
    """Yields the file's bytes each time they differ from the last ones, starting from `known`.

    Directories are watched, not the file: editors replace it by a rename, and Kubernetes swaps a link beside
    it. A file that is away for a moment, or cannot be read, is waited for, and so is its folder.
    """
    while True:
        try:
            async with contextlib.aclosing(_looks(path)) as looks:
                async for data in looks:
                    if data is not None and data != known:
                        known = data
                        yield data
        except (OSError, RuntimeError) as error:  # watchfiles wraps what it does not know in a RuntimeError
            log.warning("cannot watch %s: %s; trying again in %g s", path.parent, error, RETRY_S)
            await asyncio.sleep(RETRY_S)


async def _looks(path: Path) -> AsyncGenerator[bytes | None]:
    """The file's bytes now, and after whatever happens in its folders, until those are others."""
    folders = _folders(path)
    yield await _settled(path)
    watcher = awatch(
        *folders, recursive=False, step=20, debounce=100, rust_timeout=_POLL_MS, yield_on_timeout=True
    )
    async with contextlib.aclosing(watcher):
        async for _ in watcher:
            yield await _settled(path)
            if _folders(path) != folders:
                return  # the link leads elsewhere now, or the folder was replaced: watch there


def _folders(path: Path) -> dict[Path, tuple[int, int]]:
    """Where changes show: beside the path as given, and beside the file that it leads to; each with its identity,
    since a folder that was replaced is not watched any more. Raises OSError."""
    folders = sorted({path.absolute().parent, path.resolve().parent})
    return {folder: ((status := folder.stat()).st_dev, status.st_ino) for folder in folders}


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
