"""gRPC message frames: the Length-Prefixed-Message of the gRPC over HTTP/2 protocol, pure.

    Length-Prefixed-Message = Compressed-Flag (1 byte, 0 or 1) Message-Length (4 bytes, big endian) Message

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md and, for compression,
https://github.com/grpc/grpc/blob/master/doc/compression.md. A unary request carries exactly one such message.
"""

from __future__ import annotations

import struct
import zlib

from libs.serving.errors import Internal, ResourceExhausted, Unimplemented

HEADER_BYTES = 5
_HEADER = struct.Struct(">BI")

ACCEPT_ENCODING = b"identity,deflate,gzip"
"""Value of `grpc-accept-encoding`: what `unframe` understands."""

# windowBits of zlib: 31 is a gzip wrapper; "deflate" means the zlib format, as in HTTP (RFC 9110, 8.4.1.2).
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}


def frame(message: bytes) -> bytes:
    """One uncompressed frame around a message."""
    return _HEADER.pack(0, len(message)) + message


def expected_bytes(prefix: bytes, max_message_bytes: int) -> int:
    """How many body bytes the frame that starts with `prefix` (5 bytes or more) takes, header included.

    Raises:
        ResourceExhausted: the message would be longer than allowed. Nothing more of the body need be read.
        Internal: the compressed-flag is neither 0 nor 1.
    """
    flag, length = _HEADER.unpack_from(prefix)
    if flag > 1:
        raise Internal(f"malformed gRPC frame: the compressed-flag is {flag}, expected 0 or 1")
    if length > max_message_bytes:
        raise _too_large(length, max_message_bytes)
    return int(length) + HEADER_BYTES


def unframe(body: bytes, encoding: bytes | None, max_message_bytes: int) -> bytes:
    """The one message of a complete request body.

    Args:
        body: all of the request's data.
        encoding: value of `grpc-encoding`; None if absent.
        max_message_bytes: bound of the message as sent and as decompressed.

    Raises:
        Internal: the body is not exactly one well-formed frame, or does not decompress.
        ResourceExhausted: the message is longer than allowed.
        Unimplemented: it is compressed by something else than gzip or deflate.
    """
    size = len(body)
    if size < HEADER_BYTES:
        if size == 0:
            raise Internal("the request has no message: a unary call carries exactly one")
        raise Internal(f"malformed gRPC frame: {size} bytes, expected at least a header of {HEADER_BYTES}")
    expected = expected_bytes(body, max_message_bytes)
    if size != expected:
        if size < expected:
            raise Internal(
                f"malformed gRPC frame: the header announces {expected - HEADER_BYTES} bytes of message,"
                f" but the request ended after {size - HEADER_BYTES}"
            )
        raise trailing_bytes(size - expected)
    if body[0] == 0:
        return body[HEADER_BYTES:]
    return _decompress(body, encoding, max_message_bytes)


def trailing_bytes(count: int) -> Internal:
    """The error for data after the first message of a unary request."""
    return Internal(
        f"{count} or more bytes follow the request's first message: a unary call carries exactly one"
    )


def _decompress(body: bytes, encoding: bytes | None, max_message_bytes: int) -> bytes:
    if encoding is None or encoding == b"identity":
        raise Internal(
            "malformed gRPC frame: the compressed-flag is set, but grpc-encoding names no compression"
        )
    try:
        return inflate(memoryview(body)[HEADER_BYTES:], encoding, max_message_bytes)
    except Unimplemented as error:
        raise Unimplemented(f"grpc-encoding {error.message}") from None


def inflate(data: bytes | memoryview, encoding: bytes, max_bytes: int) -> bytes:
    """Decompressed data.

    Args:
        encoding: gzip or deflate.
        max_bytes: bound of the result.

    Raises:
        Unimplemented: it is another encoding.
        Internal: the data does not decompress.
        ResourceExhausted: the result would be longer than allowed.
    """
    window = _WINDOW_BITS.get(encoding)
    if window is None:
        raise Unimplemented(f"{encoding.decode('latin-1')!r} is not supported: expected gzip or deflate")
    inflater = zlib.decompressobj(window)
    try:
        # One byte over the bound is enough to know: a bomb costs no more memory than an honest message.
        message = inflater.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise Internal(f"the message does not decompress as {encoding.decode()}: {error}") from None
    if len(message) > max_bytes:
        raise _too_large(None, max_bytes)
    if not inflater.eof:
        raise Internal(f"the message does not decompress as {encoding.decode()}: the data is cut short")
    if inflater.unused_data:
        raise Internal(f"the message does not decompress as {encoding.decode()}: data follows its end")
    return message


def _too_large(length: int | None, max_message_bytes: int) -> ResourceExhausted:
    size = "more than that when decompressed" if length is None else f"{length} bytes"
    return ResourceExhausted(f"the message is too large: at most {max_message_bytes} bytes, got {size}")
