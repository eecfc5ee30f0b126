"""HTTP/2 by hand, for tests that send what no library would: frames of any kind, and as many at once as wanted.

Frames are those of RFC 9113, header blocks those of RFC 7541 in their plainest form. Of the answers only what tells how
a call ended is read.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE = 1, 2, 4
MAX_WINDOW = (1 << 31) - 1

Header = tuple[bytes, bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(values: Iterable[tuple[int, int]] = ()) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *value) for value in values))


def integer(value: int, prefix_bits: int, first: int = 0) -> bytes:
    """RFC 7541, 5.1."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes([first | value])
    out = bytearray([first | limit])
    value -= limit
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def block(headers: Iterable[Header]) -> bytes:
    """A header block of literals without indexing (RFC 7541, 6.2.2): independent of any other block."""
    return b"".join(
        b"\0" + integer(len(name), 7) + name + integer(len(value), 7) + value for name, value in headers
    )


def request_headers(
    path: str, more: Sequence[Header] = (), content_type: bytes = b"application/grpc"
) -> bytes:
    head: list[Header] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"test"),
        (b"te", b"trailers"),
    ]
    if content_type:
        head.append((b"content-type", content_type))
    return block([*head, *more])


def message(body: bytes, compressed: int = 0) -> bytes:
    """A gRPC message as it travels: flag, length, bytes."""
    return struct.pack(">BI", compressed, len(body)) + body


def call(stream: int, headers: bytes, body: bytes) -> bytes:
    """A whole call; a body over 16 KiB takes several frames."""
    pieces = [body[at : at + 16384] for at in range(0, len(body), 16384)] or [b""]
    out = [frame(HEADERS, END_HEADERS, stream, headers)]
    out += [frame(DATA, 0, stream, piece) for piece in pieces[:-1]]
    out.append(frame(DATA, END_STREAM, stream, pieces[-1]))
    return b"".join(out)


# The bits of RFC 7541, appendix B, for the names and numbers that are looked for.
_CODES = {
    "0": "00000", "1": "00001", "2": "00010", "3": "011001", "4": "011010", "5": "011011", "6": "011100",
    "7": "011101", "8": "011110", "9": "011111", "-": "010110", "a": "00011", "c": "00100", "g": "100110",
    "p": "101011", "r": "101100", "s": "01000", "t": "01001", "u": "101101",
}  # fmt: skip


def _huffman(text: str) -> bytes:
    bits = "".join(_CODES[letter] for letter in text)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


_GRPC_STATUS = {(False, b"grpc-status"), (True, _huffman("grpc-status"))}
_NUMBERS = {(False, str(n).encode()): n for n in range(600)} | {
    (True, _huffman(str(n))): n for n in range(600)
}
_STATIC_STATUS = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}  # RFC 7541, appendix A


@dataclass(slots=True)
class Outcome:
    """How a call ended. Exactly one of the first two is set for an answer; `reset` is RST_STREAM's code."""

    grpc_status: int | None = None
    http_status: int | None = None
    reset: int | None = None

    @property
    def answered(self) -> bool:
        """With a gRPC status, or with an HTTP one that says no."""
        return self.grpc_status is not None or (self.http_status or 200) >= 400


def _read_block(data: bytes, outcome: Outcome) -> None:
    at = 0

    def number(bits: int) -> int:
        nonlocal at
        limit = (1 << bits) - 1
        value, at = data[at] & limit, at + 1
        if value == limit:
            shift = 0
            while True:
                byte, at = data[at], at + 1
                value += (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
        return value

    def string() -> tuple[bool, bytes]:
        nonlocal at
        huffman = data[at] >= 0x80
        size = number(7)
        at += size
        return huffman, data[at - size : at]

    while at < len(data):
        first = data[at]
        if first >= 0x80:  # indexed: the dynamic table has size 0, so it is in the static one
            outcome.http_status = _STATIC_STATUS.get(number(7), outcome.http_status)
            continue
        if first & 0xE0 == 0x20:  # a new table size
            number(5)
            continue
        index = number(6 if first & 0x40 else 4)
        name = string() if index == 0 else None
        value = string()
        if 8 <= index <= 14:
            outcome.http_status = _NUMBERS[value]
        elif name in _GRPC_STATUS:
            outcome.grpc_status = _NUMBERS[value]


class Connection:
    """One connection to a listener. Reading never blocks longer than told, and never asks for a table."""

    def __init__(self, address: str, *, window: int = MAX_WINDOW, greet: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.outcomes: dict[int, Outcome] = {}
        self.ended: set[int] = set()
        self.goaway: int | None = None  # its error code
        self.closed = False
        self._buffer = bytearray()
        self._owed = 0
        self._greeted = False
        if greet:
            self.send(
                PREFACE + settings([(HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, window)])
            )
            self.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MAX_WINDOW - 65535)))
            while not self._greeted and self.read(5.0):  # until then only 64 KiB may be sent
                pass

    def send(self, data: bytes) -> bool:
        """False when the peer has closed the connection, or takes nothing more."""
        try:
            self.socket.settimeout(10)
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def read(self, timeout_s: float) -> bool:
        """Takes what has come; False when nothing came in time or the connection has ended."""
        try:
            self.socket.settimeout(timeout_s)
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return False
        self._buffer += data
        self._frames()
        return True

    def _frames(self) -> None:
        at = 0
        while len(self._buffer) - at >= 9:
            size = int.from_bytes(self._buffer[at : at + 3], "big")
            if len(self._buffer) - at < 9 + size:
                break
            kind, flags = self._buffer[at + 3], self._buffer[at + 4]
            stream = int.from_bytes(self._buffer[at + 5 : at + 9], "big") & MAX_WINDOW
            self._take(kind, flags, stream, bytes(self._buffer[at + 9 : at + 9 + size]))
            at += 9 + size
        del self._buffer[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            assert flags & END_HEADERS, "an answer's headers fit in a frame"
            _read_block(payload, self.outcomes.setdefault(stream, Outcome()))
        elif kind == RST_STREAM:
            self.outcomes.setdefault(stream, Outcome()).reset = int.from_bytes(payload, "big")
            self.ended.add(stream)
        elif kind == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        elif kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
            self._greeted = True
        elif kind == DATA and payload:
            self._owed += len(payload)
            if self._owed > 1 << 20:
                self.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._owed)))
                self._owed = 0
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self.ended.add(stream)

    def wait(self, streams: Iterable[int], timeout_s: float = 20.0) -> bool:
        """Reads until all of these calls have ended; False when the time or the connection ended first."""
        wanted = set(streams)
        deadline = time.monotonic() + timeout_s
        while not wanted <= self.ended:
            left = deadline - time.monotonic()
            if left <= 0 or (not self.read(left) and self.closed):
                return wanted <= self.ended
        return True

    def wait_closed(self, timeout_s: float = 10.0) -> bool:
        """Reads until the peer closes; False when it did not in time."""
        deadline = time.monotonic() + timeout_s
        while not self.closed and time.monotonic() < deadline:
            self.read(max(0.01, deadline - time.monotonic()))
        return self.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
