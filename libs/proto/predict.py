"""tensorflow.serving.PredictRequest and PredictResponse: raw bytes <-> numpy, without the generated classes.

Tensors decode as `libs.proto.tensor` has it: views of the message's bytes where the wire allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import ArrayLike, NDArray

from libs.proto.dtypes import DataType
from libs.proto.tensor import decode_typed_tensor, tensor_parts
from libs.proto.wire import (
    Buffer,
    ProtoError,
    Span,
    as_buffer,
    fields,
    len_field,
    merge,
    read_string,
    string_field,
    to_int64,
    varint,
    varint_field,
)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model a call is for. One of `version` and `version_label` or neither, which means the newest."""

    name: str = ""
    version: int | None = None
    version_label: str = ""
    signature_name: str = ""


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """A decoded PredictRequest. `data_types` has each input's DataType, which its dtype may not tell."""

    model_spec: ModelSpec
    inputs: dict[str, NDArray[Any]]
    output_filter: list[str] = field(default_factory=list)
    data_types: dict[str, DataType] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PredictResponse:
    """A decoded PredictResponse; `data_types` as in PredictRequest."""

    model_spec: ModelSpec
    outputs: dict[str, NDArray[Any]]
    data_types: dict[str, DataType] = field(default_factory=dict)


_REQUEST_SPEC, _REQUEST_TENSORS, _OUTPUT_FILTER = 1 << 3 | 2, 2 << 3 | 2, 3 << 3 | 2
_RESPONSE_SPEC, _RESPONSE_TENSORS = 2 << 3 | 2, 1 << 3 | 2
_NAME, _VERSION, _SIGNATURE, _LABEL = (number << 3 | 2 for number in range(1, 5))
_KEY, _TENSOR = 1 << 3 | 2, 2 << 3 | 2
_INT64 = 1 << 3


def decode_predict_request(data: Buffer) -> PredictRequest:
    """Decode a serialized PredictRequest. Raises ProtoError when it or one of its tensors is malformed."""
    buf = as_buffer(data)
    found = fields(buf, 0, len(buf))
    inputs, data_types = _tensors(buf, [(a, b) for tag, a, b in found if tag == _REQUEST_TENSORS], "input")
    return PredictRequest(
        _decode_spec(buf, [(a, b) for tag, a, b in found if tag == _REQUEST_SPEC]),
        inputs,
        [read_string(buf, a, b) for tag, a, b in found if tag == _OUTPUT_FILTER],
        data_types,
    )


def decode_predict_response(data: Buffer) -> PredictResponse:
    """Decode a serialized PredictResponse. Raises ProtoError when it or one of its tensors is malformed."""
    buf = as_buffer(data)
    found = fields(buf, 0, len(buf))
    outputs, data_types = _tensors(buf, [(a, b) for tag, a, b in found if tag == _RESPONSE_TENSORS], "output")
    spec = _decode_spec(buf, [(a, b) for tag, a, b in found if tag == _RESPONSE_SPEC])
    return PredictResponse(spec, outputs, data_types)


def _tensors(
    buf: Buffer, entries: Sequence[Span], what: str
) -> tuple[dict[str, NDArray[Any]], dict[str, DataType]]:
    """The arrays and DataTypes in the entries of a `map<string, TensorProto>`."""
    tensors: dict[str, list[Span]] = {}
    for start, end in entries:
        key = ""
        spans: list[Span] = []
        for tag, a, b in fields(buf, start, end):
            if tag == _TENSOR:
                spans.append((a, b))
            elif tag == _KEY:
                key = read_string(buf, a, b)
        tensors[key] = spans  # of entries with one key the last one counts
    arrays: dict[str, NDArray[Any]] = {}
    data_types: dict[str, DataType] = {}
    for key, spans in tensors.items():
        try:
            data_types[key], arrays[key] = decode_typed_tensor(*merge(buf, spans or [(0, 0)]))
        except ProtoError as error:
            raise ProtoError(f"{what} {key!r}: {error}") from None
    return arrays, data_types


def _decode_spec(buf: Buffer, spans: Sequence[Span]) -> ModelSpec:
    if not spans:
        return ModelSpec()
    buf, start, end = merge(buf, spans)
    name = signature = label = ""
    which = 0
    versions: list[Span] = []
    for tag, a, b in fields(buf, start, end):
        if tag == _NAME:
            name = read_string(buf, a, b)
        elif tag == _SIGNATURE:
            signature = read_string(buf, a, b)
        elif tag == _VERSION:
            if which != tag:
                versions = []
            versions.append((a, b))
            which = tag
        elif tag == _LABEL:
            label = read_string(buf, a, b)
            which = tag
    if which == _LABEL:
        return ModelSpec(name, None, label, signature)
    if which != _VERSION:
        return ModelSpec(name, signature_name=signature)
    version = 0
    for tag, a, _ in fields(*merge(buf, versions)):
        if tag == _INT64:
            version = to_int64(a)
    return ModelSpec(name, version, "", signature)


def encode_model_spec(spec: ModelSpec) -> bytes:
    """A ModelSpec's bytes. Raises ProtoError when both a version and a label are given."""
    if spec.version is not None and spec.version_label:
        raise ProtoError(f"model {spec.name!r}: give a version or a version label, not both")
    parts = [string_field(1, spec.name)] if spec.name else []
    if spec.version is not None:
        parts.append(len_field(2, varint_field(1, spec.version)))
    if spec.signature_name:
        parts.append(string_field(3, spec.signature_name))
    if spec.version_label:
        parts.append(string_field(4, spec.version_label))
    return b"".join(parts)


def encode_predict_request(
    spec: ModelSpec,
    inputs: Mapping[str, ArrayLike],
    *,
    output_filter: Sequence[str] = (),
    data_types: Mapping[str, int] | None = None,
) -> bytes:
    """A PredictRequest's bytes.

    `data_types` overrides the DataType of the tensors it names, as `encode_tensor` allows. Raises ProtoError
    for arrays that have no DataType.
    """
    filters = [string_field(3, name) for name in output_filter]
    tensors = _encode_tensors(2, inputs, data_types or {})
    return b"".join([len_field(1, encode_model_spec(spec)), *tensors, *filters])


def encode_predict_response(
    spec: ModelSpec,
    outputs: Mapping[str, ArrayLike],
    *,
    data_types: Mapping[str, int] | None = None,
) -> bytes:
    """A PredictResponse's bytes; `data_types` and errors as in `encode_predict_request`."""
    return b"".join([*_encode_tensors(1, outputs, data_types or {}), len_field(2, encode_model_spec(spec))])


def _encode_tensors(
    number: int, arrays: Mapping[str, ArrayLike], data_types: Mapping[str, int]
) -> list[Buffer]:
    """The parts of the `map<string, TensorProto>` field `number`; the arrays' elements are not copied."""
    parts: list[Buffer] = []
    for name, array in arrays.items():
        try:
            tensor = tensor_parts(array, data_types.get(name))
        except ProtoError as error:
            raise ProtoError(f"tensor {name!r}: {error}") from None
        size = sum(map(len, tensor))
        head = string_field(1, name) + bytes((_TENSOR,)) + varint(size)
        parts += (varint(number << 3 | 2), varint(len(head) + size), head, *tensor)
    return parts
