"""TensorProtos of requests to numpy, and numpy to the TensorProtos of answers.

Requests arrive as the official generated classes: their C parser walks a request several times faster than
Python can. Of a tensor's values, those in `tensor_content`, strings, and short lists of floats are taken
from the message directly; all other forms go through libs.proto.tensor, which is vectorised and holds the
rules.

Answers carry typed values (`float_val`, `string_val` ...) because TensorFlow Serving does so by default and
callers read them by `getFloatValList()` and the like.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto import dtypes
from libs.proto.dtypes import DataType, ElementType, element_type
from libs.proto.tensor import decode_typed_tensor, encode_shape, encode_tensor
from libs.proto.wire import LEN, ProtoError, varint
from libs.serving.errors import InvalidArgument
from services.tf_serving.model.signature import Shape

_SHORT = 64
"""Up to so many floats, building an array element by element beats serializing the message once more."""

_FEW = 24
"""Up to so many integers, joining single varints beats numpy's fixed costs."""

_FLOAT = int(DataType.DT_FLOAT)
_STRING = int(DataType.DT_STRING)
_VIEWED = {
    int(element.data_type): element.wire
    for element in dtypes.ELEMENT_TYPES.values()
    if element.wire.kind in "iufc" and element.wire is element.array
}
"""DataTypes whose tensor_content is the array's memory."""

_RAW_FIELDS = {
    dtypes.FLOAT_VAL,
    dtypes.DOUBLE_VAL,
    dtypes.SCOMPLEX_VAL,
    dtypes.DCOMPLEX_VAL,
    dtypes.FLOAT8_VAL,
}
"""Lists that are the array's memory on the wire: packed fixed-width numbers, or bytes."""


def array_of(name: str, proto: Any) -> tuple[int, Shape, NDArray[Any]]:
    """The DataType, shape and values of a TensorProto message. Values may be a read-only view of its bytes.

    Raises:
        InvalidArgument: the message is no tensor (values do not fit the shape, unknown dtype ...); names
            the input.
    """
    data_type = proto.dtype
    message_shape = proto.tensor_shape
    shape = tuple([dim.size for dim in message_shape.dim])
    count = prod(shape)
    try:
        if not message_shape.unknown_rank and min(shape, default=0) >= 0:
            array = _direct(proto, data_type, count)
            if array is not None:
                return data_type, shape, array.reshape(shape)
        found, array = decode_typed_tensor(proto.SerializeToString())
    except ProtoError as error:
        raise InvalidArgument(f"tensor parsing error: {name}: {error}") from error
    return int(found), array.shape, array


def _direct(proto: Any, data_type: int, count: int) -> NDArray[Any] | None:
    """The flat values where that is quick; None where it is not, or where something is odd about them."""
    content = proto.tensor_content
    if content:
        wire = _VIEWED.get(data_type)
        if wire is None or len(content) != count * wire.itemsize:
            return None
        return np.frombuffer(content, wire)
    if data_type == _STRING:
        strings = proto.string_val
        if len(strings) != count:
            return None
        values = np.empty(count, object)
        values[:] = strings
        return values
    if data_type == _FLOAT:
        floats = proto.float_val
        if len(floats) == count and count <= _SHORT:
            return np.array(floats, np.float32)
    return None


def tensor_bytes(array: NDArray[Any], data_type: int, *, as_content: bool = False) -> bytes:
    """A serialized TensorProto of `array` as DataType `data_type`.

    Typed values as TensorFlow's Tensor::AsProtoField writes them, or, `as_content`, the array's memory in
    tensor_content (strings are typed either way). Raises ProtoError for dtypes that have no wire form.
    """
    if as_content or data_type == _STRING:
        return encode_tensor(array, data_type)
    element = element_type(data_type)
    shape = encode_shape(array.shape)
    parts = [b"\x08", varint(data_type), b"\x12", varint(len(shape)), shape]
    if array.size:
        values = _typed(array, element)
        parts += (varint(element.field << 3 | LEN), varint(len(values)), values)
    return b"".join(parts)


def _typed(array: NDArray[Any], element: ElementType) -> bytes:
    if element.field in _RAW_FIELDS:
        return np.ascontiguousarray(array, element.wire).tobytes()
    if element.field == dtypes.HALF_VAL:
        return varints(np.ascontiguousarray(array).view(np.uint16))
    return varints(array)


def varints(values: NDArray[Any]) -> bytes:
    """The body of a packed list of integers or bools; negative numbers as ten bytes, as protobuf has them."""
    flat = values.reshape(-1)
    if flat.size <= _FEW:
        return b"".join(map(varint, flat.tolist()))
    # Through int64 so that the sign reaches all 64 bits; uint64 has none and goes as it is.
    wide = flat if flat.dtype == np.uint64 else flat.astype(np.int64).view(np.uint64)
    longest = max((int(wide.max()).bit_length() + 6) // 7, 1)
    if longest == 1:
        return wide.astype(np.uint8).tobytes()
    sizes = np.ones(wide.size, np.int64)
    for more in range(1, longest):
        sizes += wide >= np.uint64(1 << 7 * more)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    out = np.empty(int(ends[-1]), np.uint8)
    for position in range(longest):
        chosen = np.flatnonzero(sizes > position)
        byte = ((wide[chosen] >> np.uint64(7 * position)) & np.uint64(0x7F)).astype(np.uint8)
        byte |= ((sizes[chosen] > position + 1) << 7).astype(np.uint8)
        out[starts[chosen] + position] = byte
    return out.tobytes()
