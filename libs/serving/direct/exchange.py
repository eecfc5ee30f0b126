"""Whole unary calls from Envoy's I/O thread to the event loop, many at a time, and their answers back.

An ASGI server hands a call over piece by piece: its start, its body, the answer's start, body and trailers, each
through a thread or two and Python's lock. That costs more than a small model. The filter of this folder gathers a call
before Python hears of it; the event loop takes all that have come at once, and gives each answer in one piece.

The library is loaded twice into one process, which is once: by Envoy, as a filter, and here, by ctypes.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

NO_TIMEOUT = 2**64 - 1

_ROOM = 256
_RECORD = struct.Struct("=QIIQQQQQQ")  # struct record in exchange.h

Record = tuple[int, int, int, int, int, int, int, int, int]
"""call, kind, method, timeout in ns, arrival in ns, then address and length of the headers and of the body."""

memory_at = ctypes.string_at


class Kind(IntEnum):
    """What a record tells."""

    MESSAGE = 0  # a call, whose body is its message
    BODY = 1  # a call, whose body is what came, with its frame
    GONE = 2  # that the caller of an earlier one has left
    FULL = 3  # a call, for whose body there was no memory


class Exchange:
    """The event loop's end.

    Args:
        library: path of the filter that Envoy has loaded.
        paths: of the methods that are served here; a record's method is an index of them.
        max_message_bytes: longer ones are given up early.
        max_held_bytes: memory of all bodies together, from their first byte until their calls are answered.

    Raises:
        OSError: the library cannot be loaded, or has no descriptor left to wake the loop by.
    """

    def __init__(
        self, library: str, paths: Sequence[str], max_message_bytes: int, max_held_bytes: int
    ) -> None:
        functions = ctypes.PyDLL(library)  # its functions are quick: Python's lock is not given up for them
        self._take = functions.dl_direct_take
        self._take.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self._take.restype = ctypes.c_size_t
        self._answer = functions.dl_direct_answer
        self._answer.argtypes = (
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_char_p,
            ctypes.c_size_t,
        )
        self._answer.restype = None
        self._drop = functions.dl_direct_drop
        self._drop.argtypes = (ctypes.c_void_p,)
        self._drop.restype = None
        self._held = functions.dl_direct_held
        self._held.restype = ctypes.c_size_t
        self._records = bytearray(_ROOM * _RECORD.size)
        self._address = ctypes.addressof((ctypes.c_char * len(self._records)).from_buffer(self._records))
        self._view = memoryview(self._records)
        opened = functions.dl_direct_open
        opened.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint64)
        text = "\n".join(paths).encode()
        self.fileno: int = opened(text, len(text), max_message_bytes, max_held_bytes)
        if self.fileno < 0:
            raise OSError("no descriptor for waking the event loop")

    def take(self) -> Iterator[Record]:
        """What has come, at most 256 records; when there is more the descriptor stays readable."""
        count = self._take(self._address, _ROOM)
        return _RECORD.iter_unpack(self._view[: count * _RECORD.size])

    def answer(self, call: int, head: bytes, body: bytes, trailers: bytes) -> None:
        """Answers a call, once. Without trailers the head is all of the answer, and the body is left out."""
        self._answer(call, head, len(head), body, len(body), trailers, len(trailers))

    def drop(self, call: int) -> None:
        """Forgets a call whose caller has left."""
        self._drop(call)

    @property
    def held(self) -> int:
        """Calls that there is memory of."""
        return int(self._held())
