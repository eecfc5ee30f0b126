"""Asks a gRPC server on this machine for its health: exit status 0 if it is SERVING, else 1 and why.

    python -IS probe.py PORT [SERVICE]

What HEALTHCHECK runs in every image, every few seconds: standard library only, because grpcio is not in all of them and
takes a hundred times as long to start. Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md over
HTTP/2 (RFC 9113), of which one call needs little: the answer's headers are not decoded, its one message says it all.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

DEADLINE_S = 2.0

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_STREAM = 1
_MAX_FRAME = 16384  # what we allow by not saying otherwise
# HealthCheckResponse {status: SERVING} in a gRPC frame
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"


class NotServingError(Exception):
    """The text says what was found instead."""


def check(port: int, service: str = "", deadline_s: float = DEADLINE_S) -> None:
    """Returns if the server on 127.0.0.1 answers SERVING.

    Raises:
        NotServingError: it answers something else, or nothing in time.
        OSError: it cannot be reached.
    """
    end = time.monotonic() + deadline_s
    with socket.create_connection(("127.0.0.1", port), timeout=deadline_s) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _request(service))
        answer = b""
        while True:
            kind, flags, stream, payload = _read_frame(connection, end)
            if kind == _DATA and stream == _STREAM:
                answer += payload
                if len(answer) >= len(_SERVING):
                    break
            elif kind == _SETTINGS and not flags & _ACK:
                connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                connection.sendall(_frame(_PING, _ACK, 0, payload))
            elif kind == _GOAWAY and stream == 0:
                continue  # a server that drains answers what it has accepted
            elif kind == _RST_STREAM and stream == _STREAM:
                raise NotServingError("the call was reset")
            if kind in (_DATA, _HEADERS) and stream == _STREAM and flags & _END_STREAM:
                break
    if answer != _SERVING:
        raise NotServingError(f"the answer is not SERVING: {answer.hex() or 'an error'}")


def _request(service: str) -> bytes:
    """One HealthCheckRequest {service}, with its headers."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    # HPACK (RFC 7541, 6.2.2): literals with a new name, not indexed, not Huffman coded.
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers.items())
    message = b"\x0a" + _text(service) if service else b""
    body = struct.pack(">BI", 0, len(message)) + message
    return _frame(_HEADERS, _END_HEADERS, _STREAM, block) + _frame(_DATA, _END_STREAM, _STREAM, body)


def _text(value: str) -> bytes:
    """A length of one byte and the text; in HPACK and in protobuf alike lengths up to 126 are one byte."""
    data = value.encode()
    if len(data) > 126:
        raise ValueError(f"expected at most 126 bytes, got {value!r}")
    return bytes([len(data)]) + data


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _read_frame(connection: socket.socket, end: float) -> tuple[int, int, int, bytes]:
    header = _read(connection, 9, end)
    length = int.from_bytes(header[:3], "big")
    if length > _MAX_FRAME:
        raise NotServingError("what answers there does not speak HTTP/2")
    kind, flags, stream = struct.unpack(">BBI", header[3:])
    return kind, flags, stream & 0x7FFFFFFF, _read(connection, length, end)


def _read(connection: socket.socket, size: int, end: float) -> bytes:
    data = b""
    while len(data) < size:
        left = end - time.monotonic()
        if left <= 0:
            raise NotServingError("no answer in time")
        connection.settimeout(left)
        try:
            more = connection.recv(size - len(data))
        except TimeoutError:
            raise NotServingError("no answer in time") from None
        if not more:
            raise NotServingError("the connection was closed without an answer")
        data += more
    return data


def main(arguments: list[str]) -> int:
    try:
        check(int(arguments[0]), "".join(arguments[1:2]))
    except (NotServingError, OSError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
