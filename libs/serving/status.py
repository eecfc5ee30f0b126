"""Status codes per transport, and the gRPC-over-HTTP/2 header fields that carry them.

One total table maps the domain error tree of `libs.serving.errors` to gRPC codes and to HTTP statuses.
Sources: the code numbers are gRPC's (https://grpc.github.io/grpc/core/md_doc_statuscodes.html), the HTTP
    column is google.rpc.Code's, the
header syntax is the gRPC over HTTP/2 protocol
(https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

from enum import IntEnum

from libs.serving.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServingError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)


class Code(IntEnum):
    """gRPC status codes by their numbers on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# 499 ("client closed request") is nginx's, and google.rpc.Code names it for CANCELLED.
_TABLE: dict[type[ServingError], tuple[Code, int]] = {
    InvalidArgument: (Code.INVALID_ARGUMENT, 400),
    NotFound: (Code.NOT_FOUND, 404),
    FailedPrecondition: (Code.FAILED_PRECONDITION, 400),
    ResourceExhausted: (Code.RESOURCE_EXHAUSTED, 429),
    DeadlineExceeded: (Code.DEADLINE_EXCEEDED, 504),
    Cancelled: (Code.CANCELLED, 499),
    Unavailable: (Code.UNAVAILABLE, 503),
    Unimplemented: (Code.UNIMPLEMENTED, 501),
    Internal: (Code.INTERNAL, 500),
    PermissionDenied: (Code.PERMISSION_DENIED, 403),
    Unauthenticated: (Code.UNAUTHENTICATED, 401),
}
_UNKNOWN = (Code.UNKNOWN, 500)


def _lookup(error: ServingError) -> tuple[Code, int]:
    for cls in type(error).__mro__:  # a subclass defined elsewhere inherits its parent's code
        found = _TABLE.get(cls)
        if found is not None:
            return found
    return _UNKNOWN


def grpc_code(error: ServingError) -> Code:
    """The gRPC code of a domain error; a bare `ServingError` is UNKNOWN."""
    return _lookup(error)[0]


def http_status(error: ServingError) -> int:
    """The HTTP status of a domain error; a bare `ServingError` is 500."""
    return _lookup(error)[1]


# Percent-encoding of Status-Message: every UTF-8 byte outside %x20-%x24 and %x26-%x7E is written %XX.
_PERCENT = [chr(b) if 0x20 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in range(256)]
# A trailer longer than this risks the peer's header list limit (8 KiB in grpc-core); the message is cut, not
# the status.
MAX_MESSAGE_CHARS = 2048


def encode_message(message: str) -> bytes:
    """`grpc-message` field value of a text: percent-encoded UTF-8, cut at `MAX_MESSAGE_CHARS` characters of
    text."""
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[: MAX_MESSAGE_CHARS - 3] + "..."
    raw = message.encode("utf-8", "replace")
    if raw.isascii() and message.isprintable() and b"%" not in raw:
        return raw
    return "".join([_PERCENT[b] for b in raw]).encode("ascii")


# TimeoutUnit of the protocol, in seconds.
_UNITS = {
    ord("H"): 3600.0,
    ord("M"): 60.0,
    ord("S"): 1.0,
    ord("m"): 1e-3,
    ord("u"): 1e-6,
    ord("n"): 1e-9,
}


def parse_timeout(value: bytes) -> float:
    """Seconds of a `grpc-timeout` field value: at most 8 ASCII digits, then one of H M S m u n.

    Raises:
        ValueError: the value does not follow the syntax.
    """
    unit = _UNITS.get(value[-1]) if value else None
    digits = value[:-1]
    if unit is None or not 1 <= len(digits) <= 8 or not digits.isdigit():
        raise ValueError(
            f"grpc-timeout {value!r}: expected 1 to 8 digits and a unit of H M S m u n, such as 100m"
        )
    return int(digits) * unit
