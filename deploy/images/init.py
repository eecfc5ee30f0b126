"""Process 1 of an image: starts a program, passes signals on to it, collects orphans, and ends with its status.

A process 1 without this ignores a SIGTERM that comes before the program has its handlers, which is seconds after the
start, and leaves zombies behind. Standard library only, run with `python -IS init.py PROGRAM ARGUMENT ...`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PASSED_ON = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_PR_SET_CHILD_SUBREAPER = 36
_NOT_FOUND = 127  # as a shell says it


def run(command: list[str]) -> int:
    """Runs the program to its end; returns its exit status, 128 + N if signal N ended it, 127 if there is none."""
    # Where the container runtime has an init of its own, orphans would go to that one; they are ours all the same.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Blocked signals wait for sigwait, also those that process 1 would ignore.
    inherited = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsigmask=inherited)
    except OSError as error:
        print(f"init: {command[0]}: {error.strerror}", file=sys.stderr)
        return _NOT_FOUND
    while True:
        number = signal.sigwait({*_PASSED_ON, signal.SIGCHLD})
        if number != signal.SIGCHLD:
            os.kill(child, number)  # not yet collected, so the number is still the child's
            continue
        status = _collect(child)
        if status is not None:
            return status


def _collect(child: int) -> int | None:
    """Takes every ended process; the child's status if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
