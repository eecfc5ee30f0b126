"""What each call sends and how its answer is read: bytes and numpy arrays, no network.

Arrays in answers are read-only views of the answer's bytes where the protocol allows; copy them to change them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_inference.errors import InvalidInput, ServerError
from libs.proto import kserve, predict, seldon
from libs.proto.seldon import DataKind
from libs.proto.wire import ProtoError, as_buffer, fields, string_field

T = TypeVar("T")

_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = 1
_MAX_TASK = 2**31 - 1

Encoding = Literal["tensor", "ndarray", "tftensor"]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call, ready to be sent.

    Attributes:
        path: gRPC path: the model server's own, which a gateway takes as well.
        task: the task it is for; None when only the server can tell.
    """

    path: str
    body: bytes
    decode: Callable[[bytes], T]
    task: int | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a Seldon-protocol model answered: an array, bytes, str or JSON value, with what came along."""

    payload: Any
    names: Sequence[str]
    tags: Mapping[str, Any]
    puid: str


def task_of(model: str) -> int | None:
    """The task that a model's name means: the digits after its last hyphen (69 for `textcnn-69`), or all of it."""
    digits = model.rpartition("-")[2]
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0
    return number if 1 <= number <= _MAX_TASK else None


def tensorflow(
    model: str,
    inputs: Mapping[str, ArrayLike],
    *,
    signature: str = "",
    version: int | None = None,
    label: str = "",
    outputs: Sequence[str] = (),
    task: int | None = None,
) -> Call[dict[str, NDArray[Any]]]:
    """TensorFlow Serving's Predict: named arrays to named arrays; strings are arrays of str or bytes.

    Raises:
        InvalidInput: an array has no TensorFlow dtype, or both a version and a label are given.
    """
    spec = predict.ModelSpec(model, version, label, signature)
    try:
        body = predict.encode_predict_request(spec, _arrays(inputs), output_filter=outputs)
    except ProtoError as error:
        raise InvalidInput(str(error)) from None

    def decode(data: bytes) -> dict[str, NDArray[Any]]:
        return _read(predict.decode_predict_response, data).outputs

    at = "/tensorflow.serving.PredictionService/Predict"
    return Call(at, body, decode, task or task_of(model), model)


def pytorch(
    task: int,
    payload: Any,
    *,
    names: Sequence[str] = (),
    tags: Mapping[str, Any] | None = None,
    encoding: Encoding = "tensor",
) -> Call[Answer]:
    """Seldon's Predict: an array or lists of numbers, bytes, str, or a dict.

    Args:
        names: of an array's columns.
        tags: for the model's hooks, beside the task's.
        encoding: of an array: `tensor` sends float64, which every Seldon server takes; `tftensor` keeps the dtype;
            `ndarray` sends JSON-like lists, for arrays of strings as well.

    Raises:
        InvalidInput: the payload has no such form.
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        kind = DataKind.BIN
    elif isinstance(payload, str):
        kind = DataKind.STR
    elif isinstance(payload, dict):
        kind = DataKind.JSON
    else:
        kind = DataKind(encoding)
        payload = np.asarray(payload)
        if kind is DataKind.TENSOR and payload.dtype.kind in "OUS":
            kind = DataKind.NDARRAY
    try:
        meta = seldon.encode_meta(tags={**(tags or {}), "taskId": task})
        body = seldon.encode_message(kind, payload, names=names, meta=meta)
    except ProtoError as error:
        raise InvalidInput(str(error)) from None
    at = "/seldon.protos.Model/Predict"
    return Call(at, body, _seldon_answer, task, str(task))


def _seldon_answer(data: bytes) -> Answer:
    answer = _read(seldon.decode_message, data)
    return Answer(answer.payload, answer.names, answer.tags, answer.puid)


def kserve_v2(
    model: str,
    inputs: Mapping[str, ArrayLike],
    *,
    version: str = "",
    outputs: Sequence[str] = (),
    request_id: str = "",
    parameters: Mapping[str, kserve.Parameter] | None = None,
    task: int | None = None,
) -> Call[dict[str, NDArray[Any]]]:
    """KServe V2's ModelInfer (Triton's protocol): named arrays to named arrays, as raw contents.

    Raises:
        InvalidInput: an array has no V2 datatype.
    """
    try:
        body = kserve.encode_request(
            model,
            [kserve.InferTensor.of(name, array) for name, array in _arrays(inputs).items()],
            model_version=version,
            id=request_id,
            outputs=[kserve.RequestedOutput(name) for name in outputs],
            parameters=parameters,
        )
    except ProtoError as error:
        raise InvalidInput(str(error)) from None

    def decode(data: bytes) -> dict[str, NDArray[Any]]:
        return {tensor.name: tensor.array for tensor in _read(kserve.decode_response, data).outputs}

    at = "/inference.GRPCInferenceService/ModelInfer"
    return Call(at, body, decode, task or task_of(model), model)


def health(service: str = "") -> Call[bool]:
    """grpc.health.v1: whether the service serves; the empty name means the server as a whole."""

    def decode(data: bytes) -> bool:
        return any(tag == 1 << 3 and value == _SERVING for tag, value, _ in _fields(data))

    return Call(_HEALTH, string_field(1, service) if service else b"", decode, task_of(service))


def _fields(data: bytes) -> Any:
    return _read(lambda body: fields(as_buffer(body), 0, len(body)), data)


def _arrays(inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Python floats are float32 to models, and not numpy's float64; arrays keep their dtype."""
    arrays = {}
    for name, value in inputs.items():
        array = np.asarray(value)
        plain = not hasattr(value, "dtype")
        arrays[name] = array.astype(np.float32) if plain and array.dtype == np.float64 else array
    return arrays


def _read(decode: Callable[[bytes], T], data: bytes) -> T:
    try:
        return decode(data)
    except ProtoError as error:
        raise ServerError(f"the answer cannot be read: {error}") from None
