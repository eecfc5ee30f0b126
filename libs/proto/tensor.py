"""tensorflow.TensorProto as numpy arrays: raw bytes <-> numpy, without the generated classes.

Elements in tensor_content, and typed fixed-width lists that fill the shape, decode to read-only views of the
request's bytes (possibly unaligned). `libs.proto.dtypes` says which numpy dtype stands for which DataType.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from libs.proto import dtypes
from libs.proto.dtypes import BFLOAT16_BITS, DataType, ElementType, element_type, element_type_of
from libs.proto.packed import check_range, count_of, fixed, shaped, spans_of, varint_array
from libs.proto.wire import (
    I32,
    I64,
    LEN,
    Buffer,
    Field,
    ProtoError,
    Span,
    as_buffer,
    fields,
    len_field,
    merge,
    read_varint,
    to_int32,
    to_int64,
    varint,
)

# A tensor whose elements are not all on the wire (a list that repeats its last value) may become this large,
# in bytes, unless the caller allows more: a few bytes of request must not claim the machine's memory.
MAX_EXPANDED_BYTES = 64 * 1024 * 1024

_DTYPE, _SHAPE, _CONTENT, _STRING = 1 << 3, 2 << 3 | LEN, 4 << 3 | LEN, dtypes.STRING_VAL << 3 | LEN
_DIM, _UNKNOWN_RANK, _SIZE = 2 << 3 | LEN, 3 << 3, 1 << 3
_FLOAT8 = dtypes.FLOAT8_VAL << 3 | LEN
_SIZE_TAG, _SHAPE_TAG, _CONTENT_TAG = b"\x08", b"\x12", b"\x22"
_STRING_TAG = bytes((_STRING,))

# Typed lists of fixed-width elements: the dtype of what is on the wire and its wire type.
_FIXED_LISTS: dict[int, tuple[np.dtype[Any], int]] = {
    dtypes.FLOAT_VAL: (np.dtype("<f4"), I32),
    dtypes.DOUBLE_VAL: (np.dtype("<f8"), I64),
    dtypes.SCOMPLEX_VAL: (np.dtype("<f4"), I32),
    dtypes.DCOMPLEX_VAL: (np.dtype("<f8"), I64),
}
# Typed lists of varints: the protobuf scalar they hold.
_VARINT_LISTS: dict[int, np.dtype[Any]] = {
    dtypes.INT_VAL: np.dtype(np.int32),
    dtypes.INT64_VAL: np.dtype(np.int64),
    dtypes.BOOL_VAL: np.dtype(np.bool_),
    dtypes.HALF_VAL: np.dtype(np.uint16),
    dtypes.UINT32_VAL: np.dtype(np.uint32),
    dtypes.UINT64_VAL: np.dtype(np.uint64),
}


def decode_tensor(
    data: Buffer,
    start: int = 0,
    end: int | None = None,
    *,
    max_expanded_bytes: int = MAX_EXPANDED_BYTES,
) -> NDArray[Any]:
    """The array in the TensorProto `data[start:end]`; DT_STRING as an object array of bytes.

    A typed list shorter than the shape repeats its last value, an empty one stands for zeros, as TensorFlow
    has it. Raises ProtoError when the bytes are malformed, the shape is unknown or negative, the number of
    elements does not fit the shape, the dtype has no numpy form, or repeating would make more than
    `max_expanded_bytes`.
    """
    return decode_typed_tensor(data, start, end, max_expanded_bytes=max_expanded_bytes)[1]


def decode_typed_tensor(
    data: Buffer,
    start: int = 0,
    end: int | None = None,
    *,
    max_expanded_bytes: int = MAX_EXPANDED_BYTES,
) -> tuple[DataType, NDArray[Any]]:
    """As `decode_tensor`, together with the DataType, which the array's dtype alone does not tell for all."""
    buf = as_buffer(data)
    stop = len(buf) if end is None else end
    strings: list[Buffer] = []
    found = fields(buf, start, stop, _STRING, strings)
    data_type = 0
    content: Span | None = None
    shapes: list[Span] = []
    for tag, a, b in found:
        if tag == _DTYPE:
            data_type = to_int32(a)
        elif tag == _SHAPE:
            shapes.append((a, b))
        elif tag == _CONTENT:
            content = (a, b)
    element = element_type(data_type)
    shape = _decode_shape(*merge(buf, shapes)) if shapes else ()
    count = count_of(shape)
    if content is not None and content[0] < content[1]:
        values = _from_content(buf, content, element, shape, count)
    else:
        values = _typed_values(buf, found, strings, element)
        values = _filled(values, element, shape, count, max_expanded_bytes)
    return element.data_type, shaped(values, shape)


def _decode_shape(buf: Buffer, start: int, end: int) -> tuple[int, ...]:
    shape: list[int] = []
    for tag, a, b in fields(buf, start, end):
        if tag == _DIM:
            size = 0
            for dim_tag, value, _ in fields(buf, a, b):
                if dim_tag == _SIZE:
                    size = to_int64(value)
            if size < 0:
                raise ProtoError(
                    f"dimension {len(shape)} of the tensor's shape is {size}; sizes are 0 or more"
                )
            shape.append(size)
        elif tag == _UNKNOWN_RANK and a:
            raise ProtoError("the tensor's shape is of unknown rank")
    return tuple(shape)


def _mismatch(shape: Sequence[int], count: int, have: str) -> ProtoError:
    return ProtoError(f"the tensor's shape {list(shape)} has {count} elements, but {have}")


def _from_content(
    buf: Buffer, content: Span, element: ElementType, shape: tuple[int, ...], count: int
) -> NDArray[Any]:
    start, end = content
    size = end - start
    if element.data_type == DataType.DT_STRING:
        return _strings_from_content(buf, content, shape, count)
    if size != count * element.wire.itemsize:
        raise _mismatch(
            shape,
            count,
            f"tensor_content has {size} bytes; {element.data_type.name} takes {element.wire.itemsize} each",
        )
    if element.wire.kind == "b":
        # A bool array over bytes other than 0 and 1 misbehaves, so these are compared, not viewed.
        return np.not_equal(np.frombuffer(buf, np.uint8, count, start), 0)
    return _as_array(np.frombuffer(buf, element.wire, count, start), element)


def _strings_from_content(buf: Buffer, content: Span, shape: tuple[int, ...], count: int) -> NDArray[Any]:
    """DT_STRING's form of tensor_content: the lengths of all elements as varints, then their bytes."""
    pos, end = content
    if count > end - pos:  # every length takes a byte
        raise _mismatch(shape, count, f"tensor_content has {end - pos} bytes")
    lengths = []
    try:
        for _ in range(count):
            length, pos = read_varint(buf, pos)
            lengths.append(length)
    except IndexError:
        pos = end + 1
    if pos + sum(lengths) != end:
        raise _mismatch(shape, count, "tensor_content does not hold so many strings")
    values = np.empty(count, object)
    for index, length in enumerate(lengths):
        values[index] = bytes(buf[pos : pos + length])
        pos += length
    return values


def _as_array(wire: NDArray[Any], element: ElementType) -> NDArray[Any]:
    if element.array is element.wire:
        return wire
    return dtypes.bfloat16_to_float32(wire)


def _typed_values(
    buf: Buffer, found: Sequence[Field], strings: list[Buffer], element: ElementType
) -> NDArray[Any]:
    """The elements in the typed list of `element`, one-dimensional, however many there are."""
    field = element.field
    if field == dtypes.STRING_VAL:
        values = np.empty(len(strings), object)
        values[:] = strings if isinstance(buf, bytes) else [bytes(item) for item in strings]
        return values
    if field in _FIXED_LISTS:
        wire, kind = _FIXED_LISTS[field]
        values = fixed(buf, spans_of(found, field, kind), wire)
        if element.wire.kind != "c":
            return values
        if values.size % 2:
            raise ProtoError(
                f"a complex tensor has {values.size} real and imaginary parts; they come in pairs"
            )
        return values.view(element.wire)
    if field == dtypes.FLOAT8_VAL:
        last = [(a, b) for tag, a, b in found if tag == _FLOAT8][-1:]
        return fixed(buf, last, element.wire)
    numbers = varint_array(buf, found, field)
    if field == dtypes.BOOL_VAL:
        return np.not_equal(numbers, 0)
    typed = numbers.astype(_VARINT_LISTS[field])
    if field == dtypes.HALF_VAL:
        return _as_array(typed.view(BFLOAT16_BITS).view(element.wire), element)
    if field == dtypes.INT_VAL and element.wire.kind in "iu":
        return check_range(typed, element.wire, element.data_type.name)
    return typed.astype(element.wire, copy=False)


def _filled(
    values: NDArray[Any], element: ElementType, shape: tuple[int, ...], count: int, max_bytes: int
) -> NDArray[Any]:
    """`count` values: `values`, and the last of them (or zero) again for those that are missing."""
    have = values.size
    if have == count:
        return values
    if have > count:
        raise _mismatch(shape, count, f"it has {have} values of {element.data_type.name}")
    if count * element.array.itemsize > max_bytes:
        raise _mismatch(
            shape,
            count,
            f"it has {have} values of {element.data_type.name}, and repeating the last one for the rest "
            f"would take more than {max_bytes} bytes",
        )
    if have:
        last: Any = values[-1]
    else:
        last = b"" if element.data_type == DataType.DT_STRING else 0
    filled = np.full(count, last, element.array)
    filled[:have] = values
    return filled


def encode_tensor(array: ArrayLike, data_type: int | None = None) -> bytes:
    """A TensorProto's bytes from an array, or from what `numpy.asarray` makes one of.

    The dtype is the array's own unless `data_type` says another (DT_QINT8 for int8 elements, DT_BFLOAT16 for
    floats, any that numpy can cast to safely). Numbers go to tensor_content; bytes, str (as UTF-8) and
    objects of these to string_val. Raises ProtoError for what TensorFlow has no dtype for and for casts
    that are not safe.
    """
    return b"".join(tensor_parts(array, data_type))


def tensor_parts(array: ArrayLike, data_type: int | None = None) -> list[Buffer]:
    """What `encode_tensor` joins; the elements are a view of `array` where its layout allows."""
    values = np.asarray(array)
    element = element_type_of(values.dtype) if data_type is None else element_type(data_type)
    shape = encode_shape(values.shape)
    parts: list[Buffer] = [b"\x08", varint(element.data_type), _SHAPE_TAG, varint(len(shape)), shape]
    if element.data_type == DataType.DT_STRING:
        parts += _encode_strings(values)
    elif values.size:
        raw = _wire_elements(values, element).reshape(-1).view(np.uint8)
        parts += (_CONTENT_TAG, varint(raw.size), raw.data)
    return parts


def _wire_elements(values: NDArray[Any], element: ElementType) -> NDArray[Any]:
    """`values` as they lie in tensor_content: contiguous, little-endian, of the element's wire dtype."""
    if values.dtype != element.array:
        # float to float may lose digits (asking for DT_HALF means that); everything else must be exact.
        floats = values.dtype.kind == "f" and element.array.kind in "fV"
        if not floats and not np.can_cast(values.dtype, element.array, "safe"):
            raise ProtoError(
                f"cannot encode {values.dtype} elements as {element.data_type.name} without loss"
            )
        values = values.astype(element.array)
    if element.array is not element.wire:
        values = dtypes.float32_to_bfloat16(values)
    return np.ascontiguousarray(values, element.wire)


def _encode_strings(values: NDArray[Any]) -> list[bytes]:
    parts: list[bytes] = []
    for item in values.ravel().tolist():
        if isinstance(item, str):
            try:
                item = item.encode()
            except UnicodeEncodeError as error:
                raise ProtoError(f"text cannot be encoded as UTF-8: {error.reason}") from None
        elif not isinstance(item, bytes):
            raise ProtoError(f"an element of a string tensor is a {type(item).__name__}, not bytes or str")
        parts += (_STRING_TAG, varint(len(item)), item)
    return parts


def encode_shape(shape: Sequence[int]) -> bytes:
    """A TensorShapeProto's bytes; -1 for a dimension of any size, as signatures have it."""
    return b"".join([len_field(2, _SIZE_TAG + varint(size)) for size in shape])
