"""Saying what goes on, for people who wait: a line for each step, with the seconds that it took."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_TICK_S = 0.5


class Steps:
    """Writes a line when a step has ended; on a terminal the line counts seconds while it goes on.

    Args:
        clock: seconds.
    """

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stderr
        self._clock = clock
        self._terminal: TextIO | None = None
        if self._out.isatty():
            try:
                # Of its own: while TensorFlow is imported, what goes to the process's stderr is held back.
                self._terminal = os.fdopen(os.dup(self._out.fileno()), "w")
            except io.UnsupportedOperation:
                self._terminal = self._out

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """One step; a step that fails ends with no line of its own."""
        started = self._clock()
        ended = threading.Event()
        ticker = None
        if self._terminal is not None:
            ticker = threading.Thread(
                target=self._tick, args=(self._terminal, what, started, ended), daemon=True
            )
            ticker.start()
        try:
            yield
        finally:
            ended.set()
            if ticker is not None and self._terminal is not None:
                ticker.join()
                self._terminal.write("\r\x1b[K")
                self._terminal.flush()
        self._out.write(f"{self._clock() - started:6.1f} s  {what}\n")
        self._out.flush()

    def _tick(self, terminal: TextIO, what: str, started: float, ended: threading.Event) -> None:
        while not ended.wait(_TICK_S):
            terminal.write(f"\r{self._clock() - started:6.1f} s  {what} ...")
            terminal.flush()
