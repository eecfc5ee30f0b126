"""inference.ModelInferRequest and ModelInferResponse (KServe V2): raw bytes <-> numpy.

Without the generated classes. Raw contents of fixed-width types, and typed FP32 and FP64 contents, decode to
read-only views of the message's bytes (possibly unaligned). `libs.proto.kserve_tensor` has the datatypes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import ArrayLike, NDArray

from libs.proto.kserve_tensor import (
    as_array,
    decode_contents,
    decode_raw,
    encode_contents,
    encode_raw,
)
from libs.proto.packed import varint_list
from libs.proto.wire import (
    Buffer,
    ProtoError,
    Span,
    as_buffer,
    double_field,
    fields,
    len_field,
    merge,
    packed_varints,
    read_double,
    read_string,
    string_field,
    to_int64,
    varint,
    varint_field,
)

Parameter = bool | int | str | float | None


@dataclass(frozen=True, slots=True)
class InferTensor:
    """A named tensor. `array` has its shape and `datatype`'s dtype; BYTES is an object array of bytes."""

    name: str
    datatype: str
    array: NDArray[Any]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    @staticmethod
    def of(name: str, array: ArrayLike, parameters: Mapping[str, Parameter] | None = None) -> InferTensor:
        """A tensor of the datatype that fits `array`'s dtype. Raises ProtoError when none does."""
        datatype, values = as_array(array)
        return InferTensor(name, datatype, values, parameters or {})


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that a request asks for."""

    name: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded ModelInferRequest. `raw` tells that its inputs came in raw_input_contents."""

    model_name: str
    inputs: Sequence[InferTensor]
    model_version: str = ""
    id: str = ""
    outputs: Sequence[RequestedOutput] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    raw: bool = True


@dataclass(frozen=True, slots=True)
class InferResponse:
    """A decoded ModelInferResponse. `raw` tells that its outputs came in raw_output_contents."""

    model_name: str
    outputs: Sequence[InferTensor]
    model_version: str = ""
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    raw: bool = True


# Tags of both messages: the numbers agree up to the tensors.
_MODEL_NAME, _MODEL_VERSION, _ID, _PARAMETERS, _TENSORS = (number << 3 | 2 for number in range(1, 6))
_REQUESTED, _RAW_INPUTS, _RAW_OUTPUTS = 6 << 3 | 2, 7 << 3 | 2, 6 << 3 | 2
# ... of InferInputTensor and InferOutputTensor, which are alike, and InferRequestedOutputTensor.
_NAME, _DATATYPE, _TENSOR_PARAMETERS, _CONTENTS = 1 << 3 | 2, 2 << 3 | 2, 4 << 3 | 2, 5 << 3 | 2
_SHAPE = 3
_OUTPUT_PARAMETERS = 2 << 3 | 2
# ... of a map entry and InferParameter.
_KEY, _VALUE = 1 << 3 | 2, 2 << 3 | 2
_BOOL, _INT64, _STRING, _DOUBLE, _UINT64 = 1 << 3, 2 << 3, 3 << 3 | 2, 4 << 3 | 1, 5 << 3


@dataclass(slots=True)
class _Message:
    """What both messages have in common."""

    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    tensors: list[InferTensor] = field(default_factory=list)
    outputs: list[RequestedOutput] = field(default_factory=list)
    raw: bool = False


def decode_request(data: Buffer) -> InferRequest:
    """Decode a serialized ModelInferRequest.

    Raises ProtoError when the bytes are malformed, a datatype is unknown, an input's elements do not fit its
    shape, or raw_input_contents does not have one entry for each input.
    """
    message = _decode(data, "input", _RAW_INPUTS)
    return InferRequest(
        message.model_name,
        message.tensors,
        message.model_version,
        message.id,
        message.outputs,
        message.parameters,
        message.raw,
    )


def decode_response(data: Buffer) -> InferResponse:
    """Decode a serialized ModelInferResponse. Raises ProtoError as `decode_request` does."""
    message = _decode(data, "output", _RAW_OUTPUTS)
    return InferResponse(
        message.model_name,
        message.tensors,
        message.model_version,
        message.id,
        message.parameters,
        message.raw,
    )


def _decode(data: Buffer, what: str, raw_tag: int) -> _Message:
    buf = as_buffer(data)
    message = _Message()
    tensors: list[Span] = []
    raw: list[Span] = []
    for tag, a, b in fields(buf, 0, len(buf)):
        if tag == _TENSORS:
            tensors.append((a, b))
        elif tag == raw_tag:
            raw.append((a, b))
        elif tag == _MODEL_NAME:
            message.model_name = read_string(buf, a, b)
        elif tag == _MODEL_VERSION:
            message.model_version = read_string(buf, a, b)
        elif tag == _ID:
            message.id = read_string(buf, a, b)
        elif tag == _PARAMETERS:
            _read_parameter(buf, a, b, message.parameters)
        elif tag == _REQUESTED:
            message.outputs.append(_decode_requested(buf, a, b))
    if raw and len(raw) != len(tensors):
        raise ProtoError(
            f"raw_{what}_contents has {len(raw)} entries for {len(tensors)} {what}s; it takes one for each"
        )
    message.raw = bool(raw)
    for index, span in enumerate(tensors):
        message.tensors.append(_decode_tensor(buf, span, raw[index] if raw else None, what))
    return message


def _decode_tensor(buf: Buffer, span: Span, raw: Span | None, what: str) -> InferTensor:
    name = datatype = ""
    contents: list[Span] = []
    parameters: dict[str, Parameter] = {}
    found = fields(buf, *span)
    for tag, a, b in found:
        if tag == _NAME:
            name = read_string(buf, a, b)
        elif tag == _DATATYPE:
            datatype = read_string(buf, a, b)
        elif tag == _CONTENTS:
            contents.append((a, b))
        elif tag == _TENSOR_PARAMETERS:
            _read_parameter(buf, a, b, parameters)
    shape = [to_int64(size) for size in varint_list(buf, found, _SHAPE)]
    try:
        if min(shape, default=0) < 0:
            raise ProtoError(f"its shape {shape} has a negative dimension")
        if raw is None:
            array = decode_contents(*merge(buf, contents or [(0, 0)]), datatype, shape)
        elif contents:
            raise ProtoError(f"it has contents, which raw_{what}_contents rules out")
        else:
            array = decode_raw(buf, *raw, datatype, shape)
    except ProtoError as error:
        raise ProtoError(f"{what} {name!r}: {error}") from None
    return InferTensor(name, datatype, array, parameters)


def _decode_requested(buf: Buffer, start: int, end: int) -> RequestedOutput:
    name = ""
    parameters: dict[str, Parameter] = {}
    for tag, a, b in fields(buf, start, end):
        if tag == _NAME:
            name = read_string(buf, a, b)
        elif tag == _OUTPUT_PARAMETERS:
            _read_parameter(buf, a, b, parameters)
    return RequestedOutput(name, parameters)


def _read_parameter(buf: Buffer, start: int, end: int, into: dict[str, Parameter]) -> None:
    """Put an entry of a `map<string, InferParameter>` into `into`; None for a parameter with nothing set."""
    key = ""
    value: Parameter = None
    for entry_tag, entry, stop in fields(buf, start, end):
        if entry_tag == _KEY:
            key = read_string(buf, entry, stop)
        elif entry_tag == _VALUE:
            for tag, a, b in fields(buf, entry, stop):
                if tag == _BOOL:
                    value = a != 0
                elif tag == _INT64:
                    value = to_int64(a)
                elif tag == _STRING:
                    value = read_string(buf, a, b)
                elif tag == _DOUBLE:
                    value = read_double(buf, a)[0]
                elif tag == _UINT64:
                    value = a
    into[key] = value


def encode_request(
    model_name: str,
    inputs: Sequence[InferTensor],
    *,
    model_version: str = "",
    id: str = "",  # noqa: A002 - the protocol's name
    outputs: Sequence[RequestedOutput] = (),
    parameters: Mapping[str, Parameter] | None = None,
    raw: bool = True,
) -> bytes:
    """A ModelInferRequest's bytes, its inputs in raw_input_contents or, with `raw=False`, in typed contents.

    Raises ProtoError when an array does not have its datatype's dtype, or its datatype has no typed contents.
    """
    requested = [
        len_field(6, string_field(1, output.name) + _encode_parameters(2, output.parameters))
        for output in outputs
    ]
    return _encode(model_name, model_version, id, parameters, inputs, requested, 7 if raw else None)


def encode_response(
    model_name: str,
    outputs: Sequence[InferTensor],
    *,
    model_version: str = "",
    id: str = "",  # noqa: A002 - the protocol's name
    parameters: Mapping[str, Parameter] | None = None,
    raw: bool = True,
) -> bytes:
    """A ModelInferResponse's bytes, its outputs in raw_output_contents or, with `raw=False`, typed contents.

    Typed contents are for callers that sent such: tritonclient reads none but raw ones. Raises ProtoError as
    `encode_request` does.
    """
    return _encode(model_name, model_version, id, parameters, outputs, [], 6 if raw else None)


def _encode(
    model_name: str,
    model_version: str,
    request_id: str,
    parameters: Mapping[str, Parameter] | None,
    tensors: Sequence[InferTensor],
    requested: list[bytes],
    raw_number: int | None,
) -> bytes:
    parts: list[Any] = []
    for number, text in ((1, model_name), (2, model_version), (3, request_id)):
        if text:
            parts.append(string_field(number, text))
    if parameters:
        parts.append(_encode_parameters(4, parameters))
    raw_parts: list[Any] = []
    for tensor in tensors:
        head = [
            string_field(1, tensor.name),
            string_field(2, tensor.datatype),
            packed_varints(3, tensor.array.shape),
            _encode_parameters(4, tensor.parameters),
        ]
        try:
            if raw_number is None:
                head.append(len_field(5, encode_contents(tensor.array, tensor.datatype)))
            else:
                content = encode_raw(tensor.array, tensor.datatype)
                raw_parts += (varint(raw_number << 3 | 2), varint(len(content)), content)
        except ProtoError as error:
            raise ProtoError(f"tensor {tensor.name!r}: {error}") from None
        parts.append(len_field(5, b"".join(head)))
    return b"".join([*parts, *requested, *raw_parts])


def _encode_parameters(number: int, parameters: Mapping[str, Parameter]) -> bytes:
    """The entries of the `map<string, InferParameter>` field `number`."""
    entries = []
    for key, value in parameters.items():
        if isinstance(value, bool):
            choice = varint_field(1, value)
        elif isinstance(value, int):
            if not -(1 << 63) <= value < 1 << 64:
                raise ProtoError(f"parameter {key!r}: {value} does not fit 64 bits")
            choice = varint_field(2 if value < 1 << 63 else 5, value)
        elif isinstance(value, str):
            choice = string_field(3, value)
        elif isinstance(value, float):
            choice = double_field(4, value)
        elif value is None:
            choice = b""
        else:
            raise ProtoError(f"parameter {key!r}: a {type(value).__name__} is not bool, int, str or float")
        entries.append(len_field(number, string_field(1, key) + len_field(2, choice)))
    return b"".join(entries)
