"""Packed numeric lists of protobuf messages as numpy arrays, without a copy where the wire allows it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto.wire import LEN, VARINT, Buffer, Field, ProtoError, Span, merge, read_varint, varint

# Below this many bytes a Python loop beats numpy's fixed costs.
_SMALL = 24
# numpy's own bound; 32 before numpy 2, which `shaped` then reports.
_MAX_DIMENSIONS = 64
_SEVEN_BITS = np.uint8(0x7F)


def spans_of(found: Sequence[Field], number: int, element: int) -> list[Span]:
    """Where the elements of repeated field `number` lie, from `wire.fields`.

    `element` is the wire type of one element: I32 or I64. A parser must take packed lists and single elements
    in any mixture; for fixed widths both are the same bytes.
    """
    packed, single = number << 3 | LEN, number << 3 | element
    return [(a, b) for tag, a, b in found if tag in (packed, single)]


def fixed(buf: Buffer, spans: Sequence[Span], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Fixed-width elements (little-endian `dtype`) in `spans`, one-dimensional.

    A read-only view of `buf` when there is one span, which may not be aligned. Raises ProtoError when a span
    is not a whole number of elements.
    """
    for start, end in spans:
        if (end - start) % dtype.itemsize:
            raise ProtoError(
                f"a packed list of {end - start} bytes does not divide into {dtype.itemsize}-byte elements"
            )
    if not spans:
        return np.empty(0, dtype)
    buf, start, end = merge(buf, spans)
    return np.frombuffer(buf, dtype, (end - start) // dtype.itemsize, start)


def varint_list(buf: Buffer, found: Sequence[Field], number: int) -> list[int]:
    """Elements of repeated integer field `number`, unsigned 64 bits; for short lists, such as shapes."""
    packed, single = number << 3 | LEN, number << 3 | VARINT
    values: list[int] = []
    for tag, a, b in found:
        if tag == single:
            values.append(a)
        elif tag == packed:
            values.extend(_read_varints(buf, a, b))
    return values


def _read_varints(buf: Buffer, pos: int, end: int) -> list[int]:
    values = []
    try:
        while pos < end:
            value = buf[pos]
            pos += 1
            if value >= 0x80:
                value, pos = read_varint(buf, pos - 1)
            values.append(value)
    except IndexError:
        pos = -1
    if pos != end:
        raise ProtoError(f"truncated message: the packed list that ends at byte {end} stops inside a number")
    return values


def varint_array(buf: Buffer, found: Sequence[Field], number: int) -> NDArray[np.uint64]:
    """Elements of repeated integer field `number` as uint64, one-dimensional; for long lists."""
    packed, single = number << 3 | LEN, number << 3 | VARINT
    parts: list[NDArray[np.uint64]] = []
    run: list[int] = []  # of single elements
    for tag, a, b in found:
        if tag == single:
            run.append(a)
        elif tag == packed:
            if run:
                parts.append(np.array(run, np.uint64))
                run = []
            parts.append(_decode_varints(buf, a, b))
    if run or not parts:
        parts.append(np.array(run, np.uint64))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _decode_varints(buf: Buffer, start: int, end: int) -> NDArray[np.uint64]:
    if end - start < _SMALL:
        return np.array(_read_varints(buf, start, end), np.uint64)
    raw = np.frombuffer(buf, np.uint8, end - start, start)
    ends = np.flatnonzero(raw < 0x80)
    if ends.size == raw.size:
        return raw.astype(np.uint64)
    if not ends.size or ends[-1] != raw.size - 1:
        raise ProtoError(f"truncated message: the packed list that ends at byte {end} stops inside a number")
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > 10:
        raise ProtoError("malformed message: a packed list has a varint of more than 10 bytes")
    values = (raw[starts] & _SEVEN_BITS).astype(np.uint64)
    for index in range(1, longest):
        more = np.flatnonzero(lengths > index)
        values[more] |= (raw[starts[more] + index] & _SEVEN_BITS).astype(np.uint64) << np.uint64(7 * index)
    return values


def encode_varints(values: NDArray[Any]) -> bytes:
    """The body of a packed list of integers (any integer or bool dtype; negative ones in ten bytes)."""
    return b"".join(map(varint, values.ravel().tolist()))


def check_range(values: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Integers as the narrower `dtype`. Raises ProtoError naming `name` when one does not fit."""
    if values.dtype == dtype or not values.size:
        return values.astype(dtype, copy=False)
    info = np.iinfo(dtype)
    low, high = int(values.min()), int(values.max())
    if low < info.min or high > info.max:
        worst = low if low < info.min else high
        raise ProtoError(f"the value {worst} does not fit {name}, which holds {info.min} to {info.max}")
    return values.astype(dtype)


def count_of(shape: Sequence[int]) -> int:
    """How many elements `shape` has. Raises ProtoError for more dimensions than an array can have.

    That bound also keeps the product of hostile dimensions from becoming a number of millions of digits.
    """
    if len(shape) > _MAX_DIMENSIONS:
        raise ProtoError(
            f"a shape of {len(shape)} dimensions is beyond what numpy can hold: {_MAX_DIMENSIONS}"
        )
    return prod(shape)


def shaped(values: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """`values` in `shape`, whose product the caller has checked. Raises ProtoError past numpy's limits."""
    try:
        return values.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise ProtoError(f"shape {list(shape)} is beyond what numpy can hold: {error}") from None
