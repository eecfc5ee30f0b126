"""The filter's parsers for Python tests, with their input and output beside memory that nobody may touch."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

_STATE_BYTES = 512  # more than struct route_key has


class Kind(IntEnum):
    NAME = 0
    SPEC = 1
    TASKS = 2
    META = 3
    FEEDBACK = 4


class Verdict(IntEnum):
    MORE = 0
    FOUND = 1
    ABSENT = 2
    NOT_A_TASK = 3
    MALFORMED = 4
    TOO_COMPLEX = 5


class Format(IntEnum):
    RAW = 0
    ZLIB = 1
    GZIP = 2


class End(IntEnum):
    WHOLE = 0
    FULL = 1
    CUT = 2
    DAMAGED = 3


class Guarded:
    """Memory whose end is the end of what may be touched: one byte beyond it ends the process."""

    def __init__(self, capacity: int) -> None:
        pages = -(-capacity // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._end = self._start + pages
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(self._end), ctypes.c_size_t(mmap.PAGESIZE), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def room(self, size: int) -> int:
        """The address of the last `size` bytes."""
        assert size <= self._end - self._start
        return self._end - size

    def put(self, data: bytes) -> int:
        """Copies bytes to the end; their address."""
        address = self.room(len(data))
        ctypes.memmove(address, data, len(data))
        return address

    def get(self, size: int, count: int) -> bytes:
        """The first `count` of the last `size` bytes."""
        return ctypes.string_at(self.room(size), count)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(__file__).with_name("libdl_route_check.so")))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.route_key_start.argtypes = [pointer, ctypes.c_int, ctypes.c_uint32]
    library.route_key_feed.argtypes = [pointer, pointer, size]
    library.route_key_explain.argtypes = [pointer, pointer, size]
    library.route_key_explain.restype = size
    library.route_task_of_digits.argtypes = [pointer, size]
    library.route_task_of_digits.restype = ctypes.c_uint32
    library.inflate_head.argtypes = [ctypes.c_int, pointer, size, pointer, size, pointer]
    library.inflate_head.restype = size
    return library


_LIBRARY = _library()
_INPUT, _OUTPUT = Guarded(1 << 24), Guarded(1 << 20)


def task_of_digits(digits: bytes) -> int:
    return int(_LIBRARY.route_task_of_digits(_INPUT.put(digits), len(digits)))


class RouteKey:
    """The push parser, fed with bytes."""

    def __init__(self, kind: Kind, length: int) -> None:
        self._state = ctypes.create_string_buffer(_STATE_BYTES)
        _LIBRARY.route_key_start(self._state, kind, length)

    def feed(self, data: bytes) -> Verdict:
        return Verdict(_LIBRARY.route_key_feed(self._state, _INPUT.put(data), len(data)))

    @property
    def task(self) -> int:
        return int.from_bytes(self._state.raw[:4], "little")

    def explain(self, room: int = 512) -> str:
        count = _LIBRARY.route_key_explain(self._state, _OUTPUT.room(room), room)
        return _OUTPUT.get(room, count).decode("ascii")


def verdict_of(kind: Kind, message: bytes, pieces: Iterable[bytes] | None = None) -> tuple[Verdict, int]:
    """What the parser says of a message, given whole or in pieces: the verdict, and the task when it found one."""
    key = RouteKey(kind, len(message))
    verdict = Verdict.MORE
    for piece in (message,) if pieces is None else pieces:
        verdict = key.feed(piece)
        if verdict != Verdict.MORE:
            break
    return verdict, key.task if verdict == Verdict.FOUND else 0


def inflate(form: Format, source: bytes, room: int) -> tuple[bytes, End]:
    """The first `room` bytes of what a source unpacks to, and why there are no more."""
    end = ctypes.c_int(-1)
    count = _LIBRARY.inflate_head(
        form, _INPUT.put(source), len(source), _OUTPUT.room(room), room, ctypes.byref(end)
    )
    return _OUTPUT.get(room, count), End(end.value)
