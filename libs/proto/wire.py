"""Protobuf's wire format: walking a message's fields without copying them, and writing fields.

A message is a run of records, each a tag (field number and wire type) and a value. `fields` lists the records
of one message with the values' positions in the buffer; what a field means is up to the codec that calls it.
The rules are those of https://protobuf.dev/programming-guides/encoding/: fields come in any order, a later
scalar replaces an earlier one, messages that come twice merge (merging equals parsing their concatenation),
and what is not known is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

# Wire types, the low three bits of a tag.
VARINT = 0
I64 = 1
LEN = 2
_GROUP_START = 3
_GROUP_END = 4
I32 = 5

# How deep messages may nest, counted as protobuf's own parsers do.
MAX_DEPTH = 100

_MASK_64 = (1 << 64) - 1
_MAX_TAG = (1 << 32) - 1
# The largest length that protobuf's parsers accept for a field.
_MAX_LENGTH = (1 << 31) - 1

Buffer = bytes | memoryview
Field = tuple[int, int, int]
Span = tuple[int, int]

_pack_double = struct.Struct("<d").pack
read_double = struct.Struct("<d").unpack_from
read_float = struct.Struct("<f").unpack_from


class ProtoError(ValueError):
    """The bytes are not the message they should be, or a value cannot be put into one."""


def as_buffer(data: Buffer | bytearray) -> Buffer:
    """`data` as something whose items are bytes and which nobody can change through a view of ours."""
    if isinstance(data, bytes):
        return data
    view = memoryview(data)
    if view.format != "B" or view.ndim != 1:
        view = view.cast("B")
    return view.toreadonly()


def read_varint(buf: Buffer, pos: int) -> tuple[int, int]:
    """The varint at `pos` as an unsigned 64-bit number, and the position after it.

    Raises IndexError at the buffer's end (callers turn it into ProtoError) and ProtoError past ten bytes.
    """
    byte = buf[pos]
    pos += 1
    if byte < 0x80:
        return byte, pos
    value = byte & 0x7F
    shift = 7
    while True:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK_64, pos
        shift += 7
        if shift >= 70:
            raise ProtoError(f"malformed message: a varint of more than 10 bytes ends near byte {pos}")


def fields(
    buf: Buffer, pos: int, end: int, collect: int = 0, collected: list[Buffer] | None = None
) -> list[Field]:
    """The fields of the message in `buf[pos:end]`, in their order, as (tag, a, b).

    `tag` is `number << 3 | wire type`. For VARINT, `a` is the value (unsigned, 64 bits) and `b` the position
    after it; for LEN, I64 and I32 the payload is `buf[a:b]`. Groups, which none of our messages has, are
    skipped. Payloads of fields with the tag `collect` (of wire type LEN) go into `collected` instead, which
    is cheaper for long lists. Raises ProtoError when the bytes are no message or end inside a field.
    """
    found: list[Field] = []
    append = found.append
    try:
        while pos < end:
            tag = buf[pos]
            pos += 1
            if tag >= 0x80:
                tag, pos = read_varint(buf, pos - 1)
            kind = tag & 7
            if kind == 2:
                size = buf[pos]
                pos += 1
                if size >= 0x80:
                    size, pos = read_varint(buf, pos - 1)
                start = pos
                pos += size
                if pos > end:
                    raise _overrun(tag, start, pos, end)
                if tag == collect and collected is not None:
                    collected.append(buf[start:pos])
                else:
                    append((tag, start, pos))
            elif kind == 0:
                value = buf[pos]
                pos += 1
                if value >= 0x80:
                    value, pos = read_varint(buf, pos - 1)
                append((tag, value, pos))
            elif kind == 1:
                append((tag, pos, pos + 8))
                pos += 8
            elif kind == 5:
                append((tag, pos, pos + 4))
                pos += 4
            else:
                pos = _skip_group(buf, pos, end, tag)
            if tag < 8 or tag > _MAX_TAG:
                raise ProtoError(
                    f"malformed message: no field can have the tag {tag}, read before byte {pos}"
                )
    except IndexError:
        raise ProtoError(
            f"truncated message: a field that starts before byte {end} is cut off there"
        ) from None
    if pos != end:
        raise ProtoError(f"truncated message: its last field should end at byte {pos}, the message has {end}")
    return found


def _overrun(tag: int, start: int, stop: int, end: int) -> ProtoError:
    size = stop - start
    if size > _MAX_LENGTH:
        return ProtoError(
            f"malformed message: field {tag >> 3} claims {size} bytes, the limit is {_MAX_LENGTH}"
        )
    return ProtoError(
        f"truncated message: field {tag >> 3} claims {size} bytes from byte {start}, "
        f"but its message ends at byte {end}"
    )


def _skip_group(buf: Buffer, pos: int, end: int, tag: int) -> int:
    """The position after the group that `tag` starts. Raises ProtoError when there is none."""
    if tag & 7 != _GROUP_START:
        raise ProtoError(f"malformed message: unexpected wire type {tag & 7} of field {tag >> 3}")
    open_groups = [tag >> 3]
    while open_groups:
        if pos >= end:
            raise ProtoError(f"truncated message: group {open_groups[-1]} has no end")
        tag, pos = read_varint(buf, pos)
        kind = tag & 7
        if tag < 8 or tag > _MAX_TAG:
            raise ProtoError(f"malformed message: no field can have the tag {tag}, read before byte {pos}")
        if kind == VARINT:
            _, pos = read_varint(buf, pos)
        elif kind == I64:
            pos += 8
        elif kind == LEN:
            size, pos = read_varint(buf, pos)
            pos += size
        elif kind == I32:
            pos += 4
        elif kind == _GROUP_START:
            open_groups.append(tag >> 3)
            if len(open_groups) >= MAX_DEPTH:
                raise ProtoError(f"malformed message: groups nested deeper than {MAX_DEPTH}")
        elif kind == _GROUP_END and open_groups[-1] == tag >> 3:
            open_groups.pop()
        else:
            raise ProtoError(f"malformed message: unexpected wire type {kind} of field {tag >> 3} in a group")
    return pos


def read_string(buf: Buffer, start: int, end: int) -> str:
    """The string field `buf[start:end]`. Raises ProtoError when it is not UTF-8, as proto3 demands."""
    try:
        return str(buf[start:end], "utf-8")
    except UnicodeDecodeError as error:
        raise ProtoError(f"the string at byte {start} is not valid UTF-8: {error.reason}") from None


def to_int32(value: int) -> int:
    """An int32 field's number from its varint; bits above 32 are dropped, as protobuf does."""
    value &= 0xFFFFFFFF
    return value - 0x1_0000_0000 if value >= 0x8000_0000 else value


def to_int64(value: int) -> int:
    """An int64 field's number from its varint."""
    return value - (1 << 64) if value >= 1 << 63 else value


def merge(buf: Buffer, spans: Sequence[Span]) -> tuple[Buffer, int, int]:
    """The concatenation of `spans` of `buf`, as (buffer, start, end); a single span stays where it is.

    That is how a message or a packed list that came in several parts is to be read.
    """
    if len(spans) == 1:
        start, end = spans[0]
        return buf, start, end
    joined = b"".join([buf[start:end] for start, end in spans])
    return joined, 0, len(joined)


_ONE_BYTE = [bytes([value]) for value in range(0x80)]


def varint(value: int) -> bytes:
    """`value` as a varint; negative numbers as 64-bit two's complement."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    value &= _MASK_64
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def len_field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: bytes, string, message or packed list."""
    return b"".join((varint(number << 3 | LEN), varint(len(payload)), payload))


def string_field(number: int, text: str) -> bytes:
    """A string field. Raises ProtoError when `text` has lone surrogates, which UTF-8 cannot carry."""
    try:
        return len_field(number, text.encode())
    except UnicodeEncodeError as error:
        raise ProtoError(f"text cannot be encoded as UTF-8: {error.reason}") from None


def varint_field(number: int, value: int) -> bytes:
    """An integer, bool or enum field."""
    return varint(number << 3) + varint(value)


def double_field(number: int, value: float) -> bytes:
    """A double field."""
    return varint(number << 3 | I64) + _pack_double(value)


def packed_varints(number: int, values: Iterable[int]) -> bytes:
    """A packed list of integers."""
    return len_field(number, b"".join(map(varint, values)))
