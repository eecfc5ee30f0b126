"""seldon.protos.SeldonMessage: raw bytes <-> Python values, without the generated classes.

The hot path of a PyTorch worker: one pass over the bytes, and `data.tensor` as a float64 view of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto import jsonvalue
from libs.proto.packed import count_of, fixed, shaped, varint_list
from libs.proto.seldon_meta import (
    Meta,
    Metric,
    Status,
    decode_meta,
    decode_status,
    decode_tags,
    encode_meta,
    encode_status,
)
from libs.proto.tensor import decode_tensor, tensor_parts
from libs.proto.wire import (
    MAX_DEPTH,
    Buffer,
    ProtoError,
    Span,
    as_buffer,
    fields,
    len_field,
    merge,
    packed_varints,
    read_string,
    string_field,
    to_int32,
    varint,
)

__all__ = [
    "DataKind",
    "Meta",
    "Metric",
    "SeldonRequest",
    "Status",
    "decode_message",
    "decode_meta",
    "decode_status",
    "encode_message",
    "encode_meta",
    "encode_status",
]


class DataKind(Enum):
    """What a message's payload is; the value is the protocol's own name of the field."""

    TENSOR = "tensor"
    NDARRAY = "ndarray"
    TFTENSOR = "tftensor"
    BIN = "binData"
    STR = "strData"
    JSON = "jsonData"
    CUSTOM = "customData"


@dataclass(slots=True)  # not frozen: that costs a microsecond for each request
class SeldonRequest:
    """A decoded SeldonMessage (a request or an answer). Not to be changed.

    `payload` by `kind`:
      TENSOR    float64 array; where the message allows it a read-only view of it, possibly unaligned
      NDARRAY   array of whatever dtype the lists have: float64, bool, str or object
      TFTENSOR  array of the tensor's dtype, see `libs.proto.tensor.decode_tensor`
      BIN       bytes
      STR       str
      JSON      None, bool, float, str, list or dict
      CUSTOM    bytes: the serialized google.protobuf.Any
      None      None: the message has no payload
    `tags` holds Python values; a number that is whole is an int. `raw_meta` and `raw_status` are the
    serialized Meta and Status, b"" when absent; `decode_meta` and `decode_status` read them. `more_meta` says that
    the Meta has more than puid and tags.
    """

    kind: DataKind | None
    payload: Any
    names: list[str]
    puid: str
    tags: dict[str, Any]
    raw_meta: bytes
    raw_status: bytes = b""
    more_meta: bool = False


# Tags of SeldonMessage ...
_STATUS, _META, _DATA, _BIN, _STR, _JSON, _CUSTOM = (number << 3 | 2 for number in range(1, 8))
_PAYLOADS = frozenset((_DATA, _BIN, _STR, _JSON, _CUSTOM))
# ... of DefaultData ...
_NAMES, _TENSOR, _NDARRAY, _TFTENSOR = (number << 3 | 2 for number in range(1, 5))
_ARRAYS = frozenset((_TENSOR, _NDARRAY, _TFTENSOR))
# ... and of Tensor.
_SHAPE = 1
_VALUES = frozenset((2 << 3 | 2, 2 << 3 | 1))  # packed, and a single one
_DOUBLE = np.dtype("<f8")


def decode_message(data: Buffer) -> SeldonRequest:
    """Decode a serialized SeldonMessage.

    Raises ProtoError when the bytes are malformed, a tensor's shape and number of values disagree, or a
    payload has no Python form. A tensor's shape may have one -1, which the number of values decides.
    """
    buf = as_buffer(data)
    which = 0
    spans: list[Span] = []  # of the payload; a message that comes twice in a row merges
    meta: list[Span] = []
    status: list[Span] = []
    for tag, a, b in fields(buf, 0, len(buf)):
        if tag in _PAYLOADS:
            if tag == which:
                spans.append((a, b))
            else:
                which, spans = tag, [(a, b)]
        elif tag == _META:
            meta.append((a, b))
        elif tag == _STATUS:
            status.append((a, b))
    kind: DataKind | None = None
    payload: Any = None
    names: list[str] = []
    if which == _DATA:
        kind, payload, names = _decode_data(*merge(buf, spans))
    elif which == _BIN:
        kind, payload = DataKind.BIN, bytes(buf[spans[-1][0] : spans[-1][1]])
    elif which == _STR:
        kind, payload = DataKind.STR, read_string(buf, *spans[-1])
    elif which == _JSON:
        kind, payload = DataKind.JSON, jsonvalue.decode_value(*merge(buf, spans), MAX_DEPTH - 1)
    elif which == _CUSTOM:
        kind, payload = DataKind.CUSTOM, _bytes_of(buf, spans)
    raw_meta = _bytes_of(buf, meta) if meta else b""
    puid, tags, more_meta = decode_tags(raw_meta) if raw_meta else ("", {}, False)
    return SeldonRequest(
        kind, payload, names, puid, tags, raw_meta, _bytes_of(buf, status) if status else b"", more_meta
    )


def _bytes_of(buf: Buffer, spans: Sequence[Span]) -> bytes:
    merged, start, end = merge(buf, spans)
    return bytes(merged[start:end])


def _decode_data(buf: Buffer, start: int, end: int) -> tuple[DataKind, Any, list[str]]:
    """A DefaultData's kind, array and names. Without data it is an empty ndarray, as in seldon-core."""
    which = 0
    spans: list[Span] = []
    names: list[str] = []
    for tag, a, b in fields(buf, start, end):
        if tag == _NAMES:
            names.append(read_string(buf, a, b))
        elif tag in _ARRAYS:
            if tag == which:
                spans.append((a, b))
            else:
                which, spans = tag, [(a, b)]
    if which == _TENSOR:
        return DataKind.TENSOR, _decode_doubles(*merge(buf, spans)), names
    if which == _TFTENSOR:
        return DataKind.TFTENSOR, decode_tensor(*merge(buf, spans)), names
    if which == _NDARRAY:
        return DataKind.NDARRAY, jsonvalue.decode_array(*merge(buf, spans), MAX_DEPTH - 2), names
    return DataKind.NDARRAY, np.empty(0), names


def _decode_doubles(buf: Buffer, start: int, end: int) -> NDArray[np.float64]:
    found = fields(buf, start, end)
    values = fixed(buf, [(a, b) for tag, a, b in found if tag in _VALUES], _DOUBLE)
    shape = [to_int32(size) for size in varint_list(buf, found, _SHAPE)]
    have = values.size
    count = count_of(shape)
    if count < 0:
        shape = _with_free_dimension(shape, have)
        count = count_of(shape)
    if count != have or min(shape, default=0) < 0:
        raise ProtoError(f"data.tensor declares shape {shape} ({count} values) but has {have} values")
    return values if len(shape) == 1 else shaped(values, shape)


def _with_free_dimension(shape: list[int], have: int) -> list[int]:
    """`shape` with its -1 replaced by what makes it hold `have` values, or as it is when nothing does."""
    rest = prod(size for size in shape if size != -1)
    if shape.count(-1) > 1 or rest <= 0 or have % rest:
        return shape
    return [have // rest if size == -1 else size for size in shape]


def encode_message(
    kind: DataKind | None,
    payload: Any,
    *,
    names: Sequence[str] = (),
    meta: bytes = b"",
    status: bytes = b"",
) -> bytes:
    """A SeldonMessage's bytes.

    `payload` by `kind`: for TENSOR, NDARRAY and TFTENSOR a numpy array or (nested) lists, where TENSOR takes
    real numbers, which it sends as float64; for BIN and CUSTOM bytes; for STR str; for JSON what
    `jsonvalue.encode_value` takes; for None it is ignored. `names` are the columns' names, for the array
    kinds only. `meta` and `status` are serialized messages (`encode_meta`, `encode_status`, or a request's
    `raw_meta`); empty means absent.

    Raises ProtoError when the payload is not of its kind.
    """
    parts: list[Buffer] = []
    if status:
        parts += (b"\x0a", varint(len(status)), status)
    if meta:
        parts += (b"\x12", varint(len(meta)), meta)
    if kind in _ENCODERS:
        tag, encode = _ENCODERS[kind]
        body = encode(payload)
        size = sum(map(len, body))
        head = b"".join([string_field(1, name) for name in names]) + tag + varint(size)
        parts += (b"\x1a", varint(len(head) + size), head, *body)
    elif kind is DataKind.JSON:
        parts.append(len_field(6, jsonvalue.encode_value(payload, MAX_DEPTH - 1)))
    elif kind is DataKind.STR:
        if not isinstance(payload, str):
            raise ProtoError(f"strData must be str, not {type(payload).__name__}")
        parts.append(string_field(5, payload))
    elif kind is not None:
        if not isinstance(payload, bytes | bytearray | memoryview):
            raise ProtoError(f"{kind.value} must be bytes, not {type(payload).__name__}")
        parts.append(len_field(4 if kind is DataKind.BIN else 7, bytes(payload)))
    return b"".join(parts)


def _encode_doubles(payload: Any) -> list[Buffer]:
    """The parts of a Tensor's bytes."""
    try:
        array = np.asarray(payload)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"elements are {array.dtype}")
        values = np.ascontiguousarray(array, _DOUBLE)
    except (TypeError, ValueError) as error:
        raise ProtoError(f"data.tensor takes numbers that are exact as float64: {error}") from None
    shape = packed_varints(1, array.shape)
    if not values.size:
        return [shape]
    return [shape, b"\x12", varint(values.nbytes), values.reshape(-1).view(np.uint8).data]


def _encode_ndarray(payload: Any) -> list[Buffer]:
    if isinstance(payload, np.ndarray) and payload.ndim == 0:
        payload = payload.reshape(1)
    if not isinstance(payload, np.ndarray | list | tuple):
        raise ProtoError(f"data.ndarray takes an array or lists, not {type(payload).__name__}")
    return [jsonvalue.encode_list(payload, MAX_DEPTH - 2)]


# The tag in DefaultData and the encoder of each kind of array.
_ENCODERS: dict[DataKind | None, tuple[bytes, Callable[[Any], list[Buffer]]]] = {
    DataKind.TENSOR: (bytes((_TENSOR,)), _encode_doubles),
    DataKind.NDARRAY: (bytes((_NDARRAY,)), _encode_ndarray),
    DataKind.TFTENSOR: (bytes((_TFTENSOR,)), tensor_parts),
}
