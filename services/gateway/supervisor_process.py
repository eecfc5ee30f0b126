"""Child processes that never outlive the supervisor, not even when it is killed. Only for a process with one thread."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # before any fork: nothing may be loaded between fork and exec


def allow_many_files() -> None:
    """Lifts this process's own limit of open files, which its children inherit, to what the system allows: Envoy holds
    a connection to every instance to check its health, and systems commonly begin with 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Child(Protocol):
    """What the supervisor needs to know of a child, whatever it is."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""

    def kill(self) -> None: ...


class Fork:
    """A child that runs a function of ours in a copy of this process."""

    def __init__(self, run: Callable[[], int]) -> None:
        """`run` returns the exit status."""
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        self._status: int | None = None
        if self.pid == 0:
            _run_child(parent, run)

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _run_child(parent: int, run: Callable[[], int]) -> None:
    status = 1
    try:
        # The terminal's Ctrl-C and a signal to the whole group are for the supervisor, which then tells us.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        _die_with(parent)
        status = run()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        log.critical("ended by an error", exc_info=True)
    finally:
        os._exit(status)  # not the supervisor's own clean-up


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a program. Its output goes to our standard error. Raises OSError."""
    parent = os.getpid()
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=None,  # ours: nothing but the access log is written there, where the configuration says so
        # As above: a Ctrl-C in the terminal must not reach it.
        start_new_session=True,
        preexec_fn=lambda: _die_with(parent),
    )


def _die_with(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def end(child: Child, timeout_s: float) -> None:
    """Waits for a child that was told to go, then kills it."""
    deadline = time.monotonic() + timeout_s
    while child.poll() is None:
        if time.monotonic() > deadline:
            child.kill()
            deadline += timeout_s
        time.sleep(0.01)
