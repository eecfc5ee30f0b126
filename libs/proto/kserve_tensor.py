"""The elements of KServe V2 tensors: raw contents and InferTensorContents <-> numpy.

Datatypes are the protocol's names. BF16 follows the rule of `libs.proto.dtypes`: ml_dtypes' bfloat16 where
that package is installed, float32 of the same values elsewhere.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from libs.proto import dtypes
from libs.proto.dtypes import ELEMENT_TYPES, DataType
from libs.proto.packed import check_range, count_of, encode_varints, fixed, shaped, spans_of, varint_array
from libs.proto.wire import I32, I64, LEN, Buffer, ProtoError, fields, len_field


@dataclass(frozen=True, slots=True)
class Datatype:
    """How a datatype is stored: `wire` in raw contents, `array` as callers see it.

    `contents` is the number of its list in InferTensorContents, whose elements are `element`; 0 for none.
    """

    wire: np.dtype[Any]
    array: np.dtype[Any]
    contents: int
    element: np.dtype[Any]


def _plain(name: str, contents: int, element: str) -> Datatype:
    return Datatype(np.dtype(name), np.dtype(name), contents, np.dtype(element))


_BFLOAT16 = ELEMENT_TYPES[DataType.DT_BFLOAT16]

DATATYPES: dict[str, Datatype] = {
    "BOOL": _plain("?", 1, "?"),
    "INT8": _plain("i1", 2, "<i4"),
    "INT16": _plain("<i2", 2, "<i4"),
    "INT32": _plain("<i4", 2, "<i4"),
    "INT64": _plain("<i8", 3, "<i8"),
    "UINT8": _plain("u1", 4, "<u4"),
    "UINT16": _plain("<u2", 4, "<u4"),
    "UINT32": _plain("<u4", 4, "<u4"),
    "UINT64": _plain("<u8", 5, "<u8"),
    "FP16": _plain("<f2", 0, "<f2"),
    "BF16": Datatype(_BFLOAT16.wire, _BFLOAT16.array, 0, _BFLOAT16.wire),
    "FP32": _plain("<f4", 6, "<f4"),
    "FP64": _plain("<f8", 7, "<f8"),
    "BYTES": _plain("O", 8, "O"),
}
_BYTES_CONTENTS = 8 << 3 | LEN

_BY_DTYPE: dict[np.dtype[Any], str] = {}
for _name in sorted(DATATYPES, key=lambda name: name == "BF16"):
    _BY_DTYPE.setdefault(DATATYPES[_name].array, _name)

_read_length = struct.Struct("<I").unpack_from
_pack_length = struct.Struct("<I").pack


def datatype(name: str) -> Datatype:
    """The Datatype called `name`. Raises ProtoError for unknown names."""
    found = DATATYPES.get(name)
    if found is None:
        raise ProtoError(f"unknown datatype {name!r}; the protocol has {', '.join(DATATYPES)}")
    return found


def as_array(values: ArrayLike) -> tuple[str, NDArray[Any]]:
    """The datatype for `values` and the array of its dtype. Raises ProtoError when there is none."""
    array = np.asarray(values)
    if array.dtype.kind in "SUO":
        return "BYTES", array
    dtype = array.dtype.newbyteorder("<") if array.dtype.kind in "iufb" else array.dtype
    name = _BY_DTYPE.get(dtype)
    if name is None:
        raise ProtoError(f"no datatype for numpy's {array.dtype}")
    return name, array.astype(dtype, copy=False)


def _mismatch(shape: Sequence[int], have: str) -> ProtoError:
    return ProtoError(f"its shape {list(shape)} has {prod(shape)} elements, but {have}")


def decode_raw(buf: Buffer, start: int, end: int, name: str, shape: Sequence[int]) -> NDArray[Any]:
    """The array in the raw contents `buf[start:end]`. `shape` has no negative dimension.

    Raises ProtoError when the datatype `name` is unknown or the bytes do not fit the shape.
    """
    kind = datatype(name)
    count = count_of(shape)
    size = end - start
    if name == "BYTES":
        return shaped(_decode_strings(buf, start, end, shape, count), shape)
    if size != count * kind.wire.itemsize:
        raise _mismatch(shape, f"there are {size} bytes; {name} takes {kind.wire.itemsize} each")
    if name == "BOOL":
        # A bool array over bytes other than 0 and 1 misbehaves, so these are compared, not viewed.
        return shaped(np.not_equal(np.frombuffer(buf, np.uint8, count, start), 0), shape)
    values = np.frombuffer(buf, kind.wire, count, start)
    if kind.wire is not kind.array:
        values = dtypes.bfloat16_to_float32(values)
    return shaped(values, shape)


def _decode_strings(buf: Buffer, start: int, end: int, shape: Sequence[int], count: int) -> NDArray[Any]:
    """`count` BYTES elements, each a 4-byte little-endian length and that many bytes."""
    if count * 4 > end - start:
        raise _mismatch(shape, f"there are {end - start} bytes; BYTES takes at least 4 each")
    values = np.empty(count, object)
    pos = start
    for index in range(count):
        stop = pos + 4
        if stop <= end:
            stop += _read_length(buf, pos)[0]
        if stop > end:
            raise ProtoError(f"element {index} of {count} is cut off by the end of the raw contents")
        values[index] = bytes(buf[pos + 4 : stop])
        pos = stop
    if pos != end:
        raise _mismatch(shape, f"{end - pos} bytes are left after them")
    return values


def decode_contents(buf: Buffer, start: int, end: int, name: str, shape: Sequence[int]) -> NDArray[Any]:
    """The array in the InferTensorContents `buf[start:end]`. `shape` has no negative dimension.

    Raises ProtoError when the datatype `name` is unknown or has no contents, when the list's length does not
    fit the shape, and when an element does not fit the datatype.
    """
    kind = datatype(name)
    strings: list[Buffer] = []
    found = fields(buf, start, end, _BYTES_CONTENTS, strings)
    if not kind.contents:
        raise ProtoError(f"{name} has no typed contents; send it in the raw contents")
    if name == "BYTES":
        values: NDArray[Any] = np.empty(len(strings), object)
        values[:] = [bytes(item) for item in strings]
    elif kind.wire.kind == "f":
        wire_type = I32 if kind.wire.itemsize == 4 else I64
        values = fixed(buf, spans_of(found, kind.contents, wire_type), kind.wire)
    else:
        numbers = varint_array(buf, found, kind.contents)
        if name == "BOOL":
            values = np.not_equal(numbers, 0)
        else:
            values = check_range(numbers.astype(kind.element), kind.array, name)
    if values.size != count_of(shape):
        raise _mismatch(shape, f"its contents have {values.size} values of {name}")
    return shaped(values, shape)


def _wire_elements(array: NDArray[Any], name: str) -> NDArray[Any]:
    """`array`, of any fixed-width datatype, as it lies in raw contents."""
    kind = datatype(name)
    if array.dtype != kind.array:
        raise ProtoError(f"{name} takes {kind.array} elements, not {array.dtype}")
    if kind.wire is not kind.array:
        array = dtypes.float32_to_bfloat16(array)
    return np.ascontiguousarray(array, kind.wire)


def _strings(array: NDArray[Any]) -> list[bytes]:
    """The elements of a BYTES array of bytes, str (as UTF-8) or objects of these."""
    if array.dtype.kind not in "SUO":
        raise ProtoError(f"BYTES takes bytes or str elements, not {array.dtype}")
    items = []
    for item in array.ravel().tolist():
        if isinstance(item, str):
            try:
                item = item.encode()
            except UnicodeEncodeError as error:
                raise ProtoError(f"text cannot be encoded as UTF-8: {error.reason}") from None
        elif not isinstance(item, bytes):
            raise ProtoError(f"an element of a BYTES tensor is a {type(item).__name__}, not bytes or str")
        items.append(item)
    return items


def encode_raw(array: NDArray[Any], name: str) -> bytes | memoryview:
    """The raw contents of `array`, whose dtype must be the one of the datatype `name`, else ProtoError."""
    if name == "BYTES":
        return b"".join([part for item in _strings(array) for part in (_pack_length(len(item)), item)])
    wire = _wire_elements(array, name)
    return wire.reshape(-1).view(np.uint8).data if wire.size else b""


def encode_contents(array: NDArray[Any], name: str) -> bytes:
    """The InferTensorContents of `array`. Raises ProtoError as `encode_raw` does, and for FP16 and BF16."""
    kind = datatype(name)
    if not kind.contents:
        raise ProtoError(f"{name} has no typed contents; send it in the raw contents")
    if name == "BYTES":
        return b"".join([len_field(kind.contents, item) for item in _strings(array)])
    wire = _wire_elements(array, name)
    if not wire.size:
        return b""
    return len_field(kind.contents, wire.tobytes() if wire.dtype.kind == "f" else encode_varints(wire))
