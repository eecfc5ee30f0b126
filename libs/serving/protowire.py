"""The little of protobuf's wire format that the protocols of every server take: health and reflection.

Their messages are few and small, so they need no generated code. Source:
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator


class WireError(ValueError):
    """The bytes are no message."""


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message, as (number, content), in their order; others are skipped.

    Raises:
        WireError: the bytes are no message.
    """
    at = 0
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            wire_type = tag & 7
            if wire_type == 2:
                size, at = _varint(data, at)
                if at + size > len(data):
                    raise IndexError
                yield tag >> 3, bytes(data[at : at + size])
                at += size
            elif wire_type == 0:
                _, at = _varint(data, at)
            elif wire_type in (1, 5):
                at += 8 if wire_type == 1 else 4
            else:
                raise IndexError
        if at > len(data):
            raise IndexError
    except IndexError:
        raise WireError(f"malformed message of {len(data)} bytes") from None


def text(content: bytes) -> str:
    """A string field's text. Raises WireError when it is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise WireError("a string is not UTF-8") from None


def block(number: int, content: bytes) -> bytes:
    """A length-delimited field: a string, bytes, or a message."""
    return _encode(number << 3 | 2) + _encode(len(content)) + content


def number(field: int, value: int) -> bytes:
    """A field of an unsigned number."""
    return _encode(field << 3) + _encode(value)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise IndexError


def _encode(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
