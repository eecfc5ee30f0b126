"""google.protobuf.Value, ListValue and Struct: raw bytes <-> None, bool, float, str, list and dict.

Numbers are doubles on the wire, so they decode to float. Lists of numbers, which Seldon's `ndarray` payloads
are made of, take 11 bytes an element (a Value in a ListValue) and are read and written by numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto.wire import (
    MAX_DEPTH,
    Buffer,
    ProtoError,
    Span,
    fields,
    len_field,
    merge,
    read_double,
    read_string,
    read_varint,
    string_field,
    varint,
)

# Tags of Value's oneof.
_NULL, _NUMBER, _STRING, _BOOL, _STRUCT, _LIST = (
    1 << 3,
    2 << 3 | 1,
    3 << 3 | 2,
    4 << 3,
    5 << 3 | 2,
    6 << 3 | 2,
)
_NESTED = frozenset((_STRUCT, _LIST))
# Of ListValue.values and Struct.fields, and of a map entry's key and value.
_ITEM = _ENTRY = _KEY = 1 << 3 | 2
_MAP_VALUE = 2 << 3 | 2

# A number in a list: the list item's tag and length, the number's tag, the number.
_NUMBER_ITEM = bytes((_ITEM, 9, _NUMBER))
_NUMBER_ITEM_SIZE = 11
_NUMBER_HEADER = np.frombuffer(_NUMBER_ITEM, np.uint8)
_DOUBLE = np.dtype("<f8")

_pack_number = struct.Struct("<Bd").pack


def decode_value(buf: Buffer, start: int, end: int, depth: int = MAX_DEPTH) -> Any:
    """The Value in `buf[start:end]`; None for null and for a Value with nothing set.

    Raises ProtoError for malformed bytes and for values nested deeper than `depth` messages.
    """
    _check_depth(depth)
    if end - start == 9 and buf[start] == _NUMBER:
        return read_double(buf, start + 1)[0]
    kind = 0
    value: Any = None
    spans: list[Span] = []  # of a struct or list, which merge when they come in a row
    for tag, a, b in fields(buf, start, end):
        if tag == _NUMBER:
            value = read_double(buf, a)[0]
        elif tag == _STRING:
            value = read_string(buf, a, b)
        elif tag == _BOOL:
            value = a != 0
        elif tag == _NULL:
            value = None
        elif tag in _NESTED:
            if kind != tag:
                spans = []
            spans.append((a, b))
        else:
            continue
        kind = tag
    if kind == _STRUCT:
        return decode_struct(*merge(buf, spans), depth - 1)
    if kind == _LIST:
        return decode_list(*merge(buf, spans), depth - 1)
    return value


def decode_struct(buf: Buffer, start: int, end: int, depth: int = MAX_DEPTH) -> dict[str, Any]:
    """The Struct in `buf[start:end]`. Raises ProtoError as `decode_value` does."""
    _check_depth(depth)
    return decode_map(buf, [(a, b) for tag, a, b in fields(buf, start, end) if tag == _ENTRY], depth)


def decode_map(buf: Buffer, entries: Sequence[Span], depth: int) -> dict[str, Any]:
    """The `map<string, Value>` field whose entries are the spans `entries` of `buf`.

    `depth` counts from the message that has the field. Raises ProtoError as `decode_value` does.
    """
    values = {}
    for start, end in entries:
        key = ""
        spans = []
        for tag, a, b in fields(buf, start, end):
            if tag == _MAP_VALUE:
                spans.append((a, b))
            elif tag == _KEY:
                key = read_string(buf, a, b)
        if spans:
            values[key] = decode_value(*merge(buf, spans), depth - 2)
        else:
            _check_depth(depth - 1)
            values[key] = None
    return values


def decode_list(buf: Buffer, start: int, end: int, depth: int = MAX_DEPTH) -> list[Any]:
    """The ListValue in `buf[start:end]`. Raises ProtoError as `decode_value` does."""
    _check_depth(depth)
    if depth > 0:
        numbers = _number_rows(buf, start, end)
        if numbers is not None:
            values: list[Any] = numbers.ravel().tolist()
            return values
    return [decode_value(buf, a, b, depth - 1) for tag, a, b in fields(buf, start, end) if tag == _ITEM]


def _check_depth(depth: int) -> None:
    if depth < 0:
        raise ProtoError(f"malformed message: values nested deeper than {MAX_DEPTH} messages")


def _number_rows(
    buf: Buffer, start: int, end: int, rows: int = 1, skip: int = 0
) -> NDArray[np.float64] | None:
    """`rows` equal runs of number items, each after `skip` other bytes, as (rows, numbers); None if not so.

    Every number in a list is written in the same 11 bytes, so a run of them is a matrix of bytes.
    """
    width = (end - start) // rows - skip
    if width <= 0 or width % _NUMBER_ITEM_SIZE or (end - start) % rows:
        return None
    first = start + skip
    if bytes(buf[first : first + 3]) != _NUMBER_ITEM:
        return None
    raw = np.frombuffer(buf, np.uint8, end - start, start).reshape(rows, skip + width)
    items = raw[:, skip:].reshape(-1, _NUMBER_ITEM_SIZE)
    if not (items[:, :3] == _NUMBER_HEADER).all():
        return None
    numbers: NDArray[np.float64] = np.ascontiguousarray(items[:, 3:]).view(_DOUBLE)
    return numbers.reshape(rows, -1)


def decode_array(buf: Buffer, start: int, end: int, depth: int = MAX_DEPTH) -> NDArray[Any]:
    """The ListValue in `buf[start:end]` as `numpy.array` makes one of the nested lists.

    Numbers give float64, bools bool, strings str, mixtures what numpy finds common (strings, else objects).
    Raises ProtoError as `decode_value` does, and for rows of different lengths.
    """
    _check_depth(depth)
    if depth > 0:
        row = _number_rows(buf, start, end)
        if row is not None:
            return row.reshape(-1)
    if depth > 2:
        matrix = _number_matrix(buf, start, end)
        if matrix is not None:
            return matrix
    values = decode_list(buf, start, end, depth)
    try:
        return np.array(values)
    except ValueError as error:
        raise ProtoError(f"ndarray's lists do not form an array: {error}") from None


def _number_matrix(buf: Buffer, start: int, end: int) -> NDArray[np.float64] | None:
    """The ListValue in `buf[start:end]` if it is a list of equally long lists of numbers, else None."""
    try:
        if buf[start] != _ITEM:
            return None
        size, pos = read_varint(buf, start + 1)
        stop = pos + size
        if stop > end or buf[pos] != _LIST:
            return None
        size, pos = read_varint(buf, pos + 1)
    except IndexError:
        return None
    stride, skip = stop - start, pos - start
    if pos + size != stop or (end - start) % stride:
        return None
    rows = (end - start) // stride
    heads = np.frombuffer(buf, np.uint8, end - start, start).reshape(rows, stride)[:, :skip]
    if not (heads == heads[0]).all():
        return None
    return _number_rows(buf, start, end, rows, skip)


def encode_value(value: Any, depth: int = MAX_DEPTH) -> bytes:
    """A Value's bytes. Takes what `decode_value` gives, plus int, tuple, numpy scalars and numpy arrays.

    Raises ProtoError for other types, for mapping keys that are not str, and for values nested deeper than
    `depth` messages (which a value that contains itself is).
    """
    if isinstance(value, float):
        return _pack_number(_NUMBER, value)
    if isinstance(value, str):
        return string_field(3, value)
    if value is None:
        return b"\x08\x00"
    if isinstance(value, bool | np.bool_):
        return b"\x20\x01" if value else b"\x20\x00"
    if isinstance(value, int | np.integer | np.floating):
        try:
            return _pack_number(_NUMBER, float(value))
        except OverflowError:
            raise ProtoError(f"the integer {value} does not fit a double") from None
    if isinstance(value, Mapping):
        return len_field(5, encode_struct(value, depth - 1))
    if isinstance(value, list | tuple | np.ndarray):
        return len_field(6, encode_list(value, depth - 1))
    raise ProtoError(f"cannot put a {type(value).__name__} into a JSON value")


def encode_struct(value: Mapping[str, Any], depth: int = MAX_DEPTH) -> bytes:
    """A Struct's bytes. Raises ProtoError as `encode_value` does."""
    _check_depth(depth)
    return encode_map(1, value, depth)


def encode_map(number: int, value: Mapping[str, Any], depth: int) -> bytes:
    """The entries of the `map<string, Value>` field `number`; `depth` counts from the message that has it."""
    entries = []
    for key, item in value.items():
        if not isinstance(key, str):
            raise ProtoError(f"the key {key!r} is a {type(key).__name__}; keys are strings")
        entries.append(len_field(number, string_field(1, key) + len_field(2, encode_value(item, depth - 2))))
    return b"".join(entries)


def encode_list(value: Sequence[Any] | NDArray[Any], depth: int = MAX_DEPTH) -> bytes:
    """A ListValue's bytes from a sequence or an array (of at least one dimension), nested as it is nested.

    Raises ProtoError as `encode_value` does.
    """
    _check_depth(depth)
    if isinstance(value, np.ndarray):
        if value.ndim == 0:
            raise ProtoError("a list cannot hold an array without dimensions")
        if value.size and value.dtype.kind in "iuf" and depth >= 2 * value.ndim - 1:
            return _encode_numbers(value)
        value = value.tolist()
    if len(value) > 1 and depth > 0 and all(isinstance(item, float) for item in value):
        return _encode_numbers(np.array(value))
    return b"".join([len_field(1, encode_value(item, depth - 1)) for item in value])


def _encode_numbers(array: NDArray[Any]) -> bytes:
    """A ListValue of the numbers of `array`, which has some: the reverse of `_number_rows`, any rank."""
    items = np.empty((array.size, _NUMBER_ITEM_SIZE), np.uint8)
    items[:, :3] = _NUMBER_HEADER
    items[:, 3:] = np.ascontiguousarray(array, _DOUBLE).reshape(-1, 1).view(np.uint8)
    rows = items.reshape(-1, _NUMBER_ITEM_SIZE * array.shape[-1])
    # Each row is the body of a ListValue. Frame it as an item of the list around it, innermost lists first.
    for length in reversed(array.shape[:-1]):
        size = rows.shape[1]
        list_head = varint(_LIST) + varint(size)
        head = varint(_ITEM) + varint(len(list_head) + size) + list_head
        framed = np.empty((len(rows), len(head) + size), np.uint8)
        framed[:, : len(head)] = np.frombuffer(head, np.uint8)
        framed[:, len(head) :] = rows
        rows = framed.reshape(len(rows) // length, -1)
    return rows.tobytes()
