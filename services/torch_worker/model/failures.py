"""Exceptions out of a folder's code: what the caller sees of them, and how much the log says.

A hook that fails thousands of times a second must not write as many tracebacks. The first failure of a place is
logged in full; those after it are counted and their number logged once an interval.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from libs.serving.errors import Internal, InvalidArgument, ResourceExhausted, ServingError

log = logging.getLogger(__name__)

_INTERVAL_S = 10.0
# A place that was quiet for so long is logged in full again.
_FORGOTTEN_S = 600.0
# Places remembered; code has few, and this bounds what generated code could make of them.
_MAX_PLACES = 256


@dataclass(slots=True)
class _Place:
    level: int
    last: float
    repeats: int = 0
    text: str = ""


def _timer(seconds: float, action: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


class FailureLog:
    """Logs failures, each place's first in full. Used by any thread.

    Args:
        clock: seconds.
        later: runs an action after so many seconds; asked for at most one action at a time.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] = _timer,
    ) -> None:
        self._clock = clock
        self._later = later
        self._lock = threading.Lock()
        self._places: dict[tuple[str, ...], _Place] = {}
        self._waiting = False

    def report(self, place: tuple[str, ...], text: str, error: BaseException, level: int) -> None:
        """Log one failure with its traceback, or count it, where the place has failed before."""
        now = self._clock()
        start = False
        with self._lock:
            known = self._places.get(place)
            first = known is None or now - known.last > _FORGOTTEN_S
            if known is None or first:
                if len(self._places) >= _MAX_PLACES:
                    del self._places[next(iter(self._places))]
                self._places[place] = _Place(level, now)
            else:
                known.last, known.text = now, text
                known.repeats += 1
                start, self._waiting = not self._waiting, True
        if first:
            log.log(level, "%s", text, exc_info=error)
        elif start:
            self._later(_INTERVAL_S, self.flush)

    def flush(self) -> None:
        """Log the numbers of the failures since the last time."""
        with self._lock:
            self._waiting = False
            counted = [(p.level, p.repeats, p.text) for p in self._places.values() if p.repeats]
            for known in self._places.values():
                known.repeats = 0
        for level, repeats, text in counted:
            log.log(level, "%d more within %g s, the last: %s", repeats, _INTERVAL_S, text)


_failures = FailureLog()


def place_in(folder: Path, error: BaseException) -> str | None:
    """`file line N` of the innermost frame of the traceback that lies in folder; None when there is none."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).parent == folder:
        return f"{Path(error.filename).name} line {error.lineno}"
    place = None
    root = str(folder)
    for frame, line in traceback.walk_tb(error.__traceback__):
        # Compared as text first: a Path of every frame would cost more than a quick hook takes.
        if frame.f_code.co_filename.startswith(root):
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(folder):
                place = f"{file.relative_to(folder)} line {line}"
    return place


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the device's or the host's.

    torch has an exception of its own for a device's allocator only; its CPU allocator and CUDA's libraries raise a
    RuntimeError that says so.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return any(sign in text for sign in _OUT_OF_MEMORY)


# Texts of c10/core/impl/alloc_cpu.cpp and of CUDA's libraries as torch reports them.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def failure(
    stage: str, error: BaseException, folder: Path, *, failures: FailureLog = _failures
) -> ServingError:
    """The error a caller sees when code of the folder (a hook, the model) raised; it is logged.

    A ValueError in preprocess is the caller's fault: INVALID_ARGUMENT. Memory that ran out: RESOURCE_EXHAUSTED. The
    rest is INTERNAL. The message names the stage, the exception and the line in the folder.
    """
    if isinstance(error, ServingError):
        return error
    place = place_in(folder, error)
    text = f"{stage} raised {type(error).__name__}: {error}" + (f" ({place})" if place else "")
    callers_fault = stage.startswith("preprocess") and isinstance(error, ValueError)
    level = logging.INFO if callers_fault else logging.ERROR
    failures.report((str(folder), stage, type(error).__name__, place or ""), text, error, level)
    if callers_fault:
        return InvalidArgument(text)
    return ResourceExhausted(text) if is_out_of_memory(error) else Internal(text)


def together_failed(
    stage: str, requests: int, error: BaseException, folder: Path, *, failures: FailureLog = _failures
) -> None:
    """Log that a call for several requests failed, which are run apart now: whichever is guilty gets the error then."""
    place = place_in(folder, error)
    where = f" ({place})" if place else ""
    text = f"{stage} raised {type(error).__name__} for {requests} requests together, they are run apart: {error}{where}"
    failures.report(
        (str(folder), "together", stage, type(error).__name__, place or ""), text, error, logging.WARNING
    )
