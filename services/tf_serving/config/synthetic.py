"""Warm-up requests made of zeros, from what signatures declare. Pure, without TensorFlow.

A version that cannot answer a recorded request is refused by the server, so zeros are certain only for numbers, and
where nothing but the number of rows is open. Strings, which may have to be a tf.Example, an image or a number, and
other open sizes are in doubt: their requests are to be tried first.

Field numbers are those of tensorflow_serving/apis/{prediction_log,logging,predict,classification,input}.proto:
PredictionLog.log_metadata 1, .classify_log 2, .regress_log 3, .predict_log 6; LogMetadata.model_spec 1; PredictLog's,
ClassifyLog's and RegressLog's request 1; PredictRequest.model_spec 1, .inputs 2; the others' .model_spec 1, .input 2;
Input.example_list 1; ExampleList.examples 1. TensorProto.dtype 1, .tensor_shape 2, .string_val 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from libs.proto.dtypes import DataType, element_type
from libs.proto.predict import ModelSpec, encode_model_spec
from libs.proto.tensor import MAX_EXPANDED_BYTES, encode_shape
from libs.proto.wire import LEN, ProtoError, fields, len_field, string_field, varint_field
from services.tf_serving.model.methods import CLASSIFY, REGRESS
from services.tf_serving.model.signature import Shape, Signature, TensorSpec

MAX_RECORDS = 1000
"""TensorFlow Serving's bound."""

_AUTHOR = b"tf-serving config"
_LOG_METADATA = 1 << 3 | LEN
_PREDICT_LOG = 6
_EXAMPLE_LOGS = {CLASSIFY: 2, REGRESS: 3}


@dataclass(frozen=True, slots=True)
class Request:
    """One warm-up request.

    Attributes:
        certain: zeros are sure to be taken; `doubt` says why not else.
        record: a serialized PredictionLog.
    """

    signature: str
    rows: int | None
    record: bytes
    doubt: str = ""

    @property
    def certain(self) -> bool:
        return not self.doubt


@dataclass(frozen=True, slots=True)
class Skipped:
    """A signature, or a number of its rows, of which no request can be made."""

    signature: str
    reason: str


def requests(
    model: str, signatures: Mapping[str, Signature], rows: Sequence[int]
) -> Iterator[Request | Skipped]:
    """A request for each signature, of zeros; for each number of `rows` where its rows can share a run.

    Args:
        rows: without batching (1,).
    """
    for name, signature in signatures.items():
        for count in rows if signature.batchable else (1,):
            yield _request(model, name, signature, count)


def takes_examples(signature: Signature) -> bool:
    """Whether a signature has one input, a list of strings: perhaps of serialized tf.Examples."""
    specs = list(signature.inputs.values())
    return len(specs) == 1 and (specs[0].data_type, specs[0].shape) == (DataType.DT_STRING, (-1,))


def of_examples(model: str, signature: Signature, rows: int, example: bytes) -> Request:
    """A request with the same tf.Example in each row, to the method that the signature was made for."""
    (key,) = signature.inputs
    spec = len_field(1, encode_model_spec(ModelSpec(model, signature_name=signature.name)))
    log = _EXAMPLE_LOGS.get(signature.method_name)
    if log is not None:
        request = spec + len_field(2, len_field(1, len_field(1, example) * rows))
    else:
        log = _PREDICT_LOG
        head = varint_field(1, DataType.DT_STRING) + len_field(2, encode_shape((rows,)))
        tensor = head + len_field(8, example) * rows
        request = spec + len_field(2, string_field(1, key) + len_field(2, tensor))
    record = len_field(1, _metadata()) + len_field(log, len_field(1, request))
    return Request(signature.name, rows if signature.batchable else None, record, "it parses tf.Examples")


def file_records(made: Iterable[Request]) -> list[bytes]:
    """As many records as a server reads."""
    return [request.record for request in made][:MAX_RECORDS]


def is_ours(record: bytes) -> bool:
    """Whether this module made the record: a file of such may be replaced, any other is a user's."""
    try:
        metadata = [record[a:b] for tag, a, b in fields(record, 0, len(record)) if tag == _LOG_METADATA]
    except ProtoError:
        return False
    return metadata == [_metadata()]


def _metadata() -> bytes:
    return len_field(1, encode_model_spec(ModelSpec(version_label=_AUTHOR.decode())))


def _request(model: str, name: str, signature: Signature, rows: int) -> Request | Skipped:
    inputs, doubt = [], ""
    for key, spec in signature.inputs.items():
        if spec.shape is None:
            return Skipped(name, f"the rank of its input {key} is unknown")
        shape = _concrete(spec.shape, rows)
        try:
            size = prod(shape) * element_type(spec.data_type).array.itemsize
        except ProtoError as error:
            return Skipped(name, f"its input {key}: {error}")
        if size > MAX_EXPANDED_BYTES:
            return Skipped(name, f"its input {key} has {size >> 20} MiB at {rows} rows")
        doubt = doubt or _doubt(key, spec)
        tensor = varint_field(1, spec.data_type) + len_field(2, encode_shape(shape))
        # Without values: both TensorFlow and the embedded server read that as zeros, empty strings, falses.
        inputs.append(len_field(2, string_field(1, key) + len_field(2, tensor)))
    spec_bytes = encode_model_spec(ModelSpec(model, signature_name=name))
    predict = len_field(1, len_field(1, spec_bytes) + b"".join(inputs))
    record = len_field(1, _metadata()) + len_field(_PREDICT_LOG, predict)
    return Request(name, rows if signature.batchable else None, record, doubt)


def _concrete(shape: Shape, rows: int) -> Shape:
    return tuple((rows if place == 0 else 1) if size < 0 else size for place, size in enumerate(shape))


def _doubt(key: str, spec: TensorSpec) -> str:
    if spec.data_type == DataType.DT_STRING:
        return f"its input {key} is a string, and an empty one may be refused"
    if any(size < 0 for size in (spec.shape or ())[1:]):
        return f"its input {key} has more sizes open than the number of rows, and 1 may be refused"
    return ""
