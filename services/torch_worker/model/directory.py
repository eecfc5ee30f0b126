"""The working directory of a version's threads: hooks open files by relative names.

A process has one working directory, versions of a model each want their own. On Linux a thread may part with the
process's (unshare(2), CLONE_FS); containers often forbid the call, and then all threads share one: the directory of the
version that is the default.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# linux/sched.h
_CLONE_FS = 0x200

_parted = threading.local()


def enter_directory(path: Path) -> None:
    """Make path the working directory of the process: of all threads that have none of their own.

    Called on a thread that has none of its own, such as the event loop's.
    """
    os.chdir(path)


def own_directory(path: Path) -> bool:
    """Give the calling thread, which must not be the main one, a working directory of its own, if the system lets it.

    Threads that it starts later share it. Returns whether it worked; if not, nothing has changed.
    """
    if not _part():
        return False
    os.chdir(path)
    return True


@contextmanager
def working_directory(path: Path) -> Iterator[None]:
    """Work in path: this thread alone where possible, else the whole process; the former directory comes back."""
    former = os.getcwd()
    _part()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(former)


def _part() -> bool:
    if getattr(_parted, "done", False):
        return True
    if not sys.platform.startswith("linux") or threading.current_thread() is threading.main_thread():
        return False
    _parted.done = ctypes.CDLL(None, use_errno=True).unshare(_CLONE_FS) == 0
    return bool(_parted.done)
