"""Tells when the content of the configuration's files changed, however it was changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from pathlib import Path

from watchfiles import awatch

log = logging.getLogger(__name__)

# A file that is written in pieces must be whole before it is read: its bytes have to hold still this long.
SETTLE_S = 0.05
_SETTLE_TRIES = 40
# Where inotify does not reach (some network file systems) the files are compared this often anyway.
_POLL_MS = 2000
# After a watch that could not be set up: a folder that is being replaced, or no inotify instance left.
RETRY_S = 2.0

Contents = Mapping[Path, bytes | None]  # None: there is no such file, or it cannot be read


async def changes(known: Callable[[], Contents]) -> AsyncGenerator[Contents]:
    """Yields all of the files' contents each time one differs from what `known` says of it.

    `known` is asked anew each time: its files are the ones that are looked at, so that a configuration may name others
    than the one before. Directories are watched, not files: editors replace them by a rename, and Kubernetes swaps a
    link beside them. A file that is away for a moment, or cannot be read, is waited for, and so is its folder.
    """
    while True:
        try:
            async with contextlib.aclosing(_looks(known)) as looks:
                async for found in looks:
                    before = known()
                    if any(data is not None and before.get(path) != data for path, data in found.items()):
                        yield found
        except (OSError, RuntimeError) as error:  # watchfiles wraps what it does not know in a RuntimeError
            log.warning("cannot watch the configuration: %s; trying again in %g s", error, RETRY_S)
            await asyncio.sleep(RETRY_S)


async def _looks(known: Callable[[], Contents]) -> AsyncGenerator[Contents]:
    """The files' contents now, and after whatever happens in their folders, until those are others."""
    folders = _folders(known())
    yield await _settled(known())
    if _folders(known()) != folders:
        return
    watcher = awatch(
        *folders, recursive=False, step=20, debounce=100, rust_timeout=_POLL_MS, yield_on_timeout=True
    )
    async with contextlib.aclosing(watcher):
        async for _ in watcher:
            yield await _settled(known())
            if _folders(known()) != folders:
                return  # a link leads elsewhere now, a folder was replaced, or other files count: watch there


def _folders(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Where changes show: beside each path as given, and beside the file that it leads to; each with its identity,
    since a folder that was replaced is not watched any more. Raises OSError when there is none of them."""
    found: dict[Path, tuple[int, int]] = {}
    problem: OSError | None = None
    for folder in sorted({f for path in paths for f in (path.absolute().parent, path.resolve().parent)}):
        try:
            status = folder.stat()
            found[folder] = status.st_dev, status.st_ino
        except OSError as error:
            problem = error
    if problem is not None and not found:
        raise problem
    return found


async def _settled(paths: Iterable[Path]) -> Contents:
    """The files' bytes once two reads agree; none at all when they never hold still."""
    before = _read(paths)
    for _ in range(_SETTLE_TRIES):
        await asyncio.sleep(SETTLE_S)
        after = _read(paths)
        if after == before:
            return after
        before = after
    return {}


def _read(paths: Iterable[Path]) -> Contents:
    return {path: _read_one(path) for path in paths}


def _read_one(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
