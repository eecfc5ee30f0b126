"""The line between a server process and the `run_server` that started it.

One Unix socket pair, inherited by the child under a descriptor number in `SERVING_CONTROL_FD`; one JSON
object a line.

    child -> parent   {"event": "failed", "message": "..."}   startup failed; the text is for the operator
                      {"event": "health", "serving": true}    readiness changed
    parent -> child   {"command": "drain"}                    become NOT_SERVING for good

The socket also ties the two lives together: it reads end-of-file when the other side is gone, however it
went. A child that loses its parent kills itself at once; nobody could drain it any more. No port, path or
token is involved, so nobody else can speak here.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

FD_VARIABLE = "SERVING_CONTROL_FD"
LOG_LEVEL_VARIABLE = "SERVING_LOG_LEVEL"
SWITCH_INTERVAL_S = 0.0005


def configure_logging() -> None:
    """Logging of the child to standard error at the parent's level, unless the application has set up its
    own."""
    level = os.environ.get(LOG_LEVEL_VARIABLE)
    if level is not None:
        logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def tune_process() -> None:
    """Settings of the Python process that suit a server; called when everything is loaded.

    - What was loaded stays for good. Leaving it out of every full garbage collection keeps pauses short: over
      a tensor library's million objects one takes a tenth of a second.
    - A thread that computes in Python hands the lock over after `SWITCH_INTERVAL_S` instead of 5 ms. A
      request crosses three threads, so it would wait for several such hand-overs whenever a model's pre- or
      postprocessing is busy. Measured with two callers of a model that computes 50 ms in Python: health
      checks take 4 ms at the 90th percentile instead of 13-20 ms, and 14 ms at the 99th instead of 44-65 ms.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL_S)


class Control:
    """The child's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @classmethod
    def from_environment(cls) -> Control | None:
        """The line to the parent; None if this process was not started by `run_server`. Call it once."""
        text = os.environ.pop(FD_VARIABLE, None)  # processes that the application starts have no part in it
        if text is None:
            return None
        descriptor = int(text)
        os.set_inheritable(descriptor, False)
        return cls(socket.socket(fileno=descriptor))

    def send(self, event: dict[str, Any]) -> None:
        """Tells the parent; a parent that is gone is noticed by the reader."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(event).encode() + b"\n")

    def listen(self, drain: Callable[[], object]) -> None:
        """Obeys the parent from a thread of its own, since the event loop may be busy when the parent dies.

        Args:
            drain: called on that thread.
        """
        threading.Thread(target=self._read, args=(drain,), name="control", daemon=True).start()

    def _read(self, drain: Callable[[], object]) -> None:
        with self._socket.makefile("rb") as lines:
            try:
                for line in lines:
                    if json.loads(line).get("command") == "drain":
                        drain()
            except OSError:
                pass
        os.kill(os.getpid(), signal.SIGKILL)
