"""The folder of one running gateway: its sockets and scratch files, for nobody else's eyes, and gone with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

PREFIX = "dl-gateway-"

# A Unix socket's path fits into 108 bytes with the zero behind it (sun_path of unix(7)).
_MAX_SOCKET_PATH_BYTES = 107
_LONGEST_NAME = "control.sock"
_LOCK = "lock"


def bases() -> list[Path]:
    """Where the folder may be, in order of preference: short paths follow the one that TMPDIR asks for."""
    run = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return [Path(tempfile.gettempdir()), Path(run), Path("/tmp"), Path("/run"), Path("/dev/shm")]


@contextlib.contextmanager
def run_folder(places: Iterable[Path] | None = None) -> Iterator[Path]:
    """Makes the folder (0700) and takes it away at the end. Raises OSError when there is no place for it.

    The lock tells the living from the dead, also between containers that share a /tmp, where process ids do not:
    folders that a killed gateway left behind are removed here.
    """
    tried = []
    for base in bases() if places is None else places:
        folder = base / f"{PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        if len(os.fsencode(folder / _LONGEST_NAME)) > _MAX_SOCKET_PATH_BYTES:
            tried.append(f"{base}: too long for a Unix socket")
            continue
        try:
            remove_stale(base)
            folder.mkdir(mode=0o700)
            lock = _lock(folder)
        except OSError as error:
            tried.append(f"{base}: {error.strerror}")
            continue
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
        return
    raise OSError(
        f"no folder for the gateway's sockets ({'; '.join(tried)}); set TMPDIR to a short, writable one"
    )


def remove_stale(base: Path) -> None:
    """Removes the folders of our user in `base` whose gateway does not run any more. Raises OSError."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid != os.getuid() or folder.is_symlink() or not (folder / _LOCK).is_file():
                continue
            lock = _lock(folder)
            try:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def made_at(folder: Path) -> float:
    """When the gateway of this folder started, in seconds since the epoch: the lock is never written to."""
    return (folder / _LOCK).stat().st_mtime


def _lock(folder: Path) -> int:
    """Holds the folder for as long as the descriptor is open. Raises OSError when another process holds it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
