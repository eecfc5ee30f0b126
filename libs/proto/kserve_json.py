"""KServe V2 over HTTP: JSON, with tensors' elements in it or as bytes behind it <-> numpy.

The protocol's JSON: https://github.com/kserve/open-inference-protocol. Its binary extension, which tritonclient
uses, puts the elements of some tensors behind the JSON, in the order of the tensors, and says in the header
Inference-Header-Content-Length how long the JSON is:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto.kserve import InferRequest, InferTensor, Parameter, RequestedOutput
from libs.proto.kserve_tensor import datatype, decode_raw, encode_raw
from libs.proto.packed import check_range, count_of
from libs.proto.wire import ProtoError

HEADER = "inference-header-content-length"
_BINARY = "binary_data"
_BINARY_SIZE = "binary_data_size"
_BINARY_OUTPUT = "binary_data_output"
_SCALARS = (bool, int, float, str, type(None))


def decode_request(body: bytes, json_bytes: int | None = None) -> InferRequest:
    """Decode an inference request; `raw` tells whether outputs travel as bytes unless they say otherwise.

    Args:
        body: the JSON, and what follows it.
        json_bytes: length of the JSON, of the header; None where it is all of the body.

    Raises ProtoError when the body is not that, a datatype is unknown, or elements do not fit datatype or shape.
    """
    length = len(body) if json_bytes is None else json_bytes
    if not 0 <= length <= len(body):
        raise ProtoError(f"{HEADER} says {length} bytes of JSON, the body has {len(body)}")
    try:
        document = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise ProtoError(f"the body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise ProtoError("expected a JSON object")
    parameters = _parameters(document, "the request")
    inputs = []
    at = length
    for item in _objects(document, "inputs"):
        tensor, at = _decode_tensor(item, body, at)
        inputs.append(tensor)
    if at != len(body):
        raise ProtoError(f"{len(body) - at} bytes follow the inputs' binary data")
    outputs = [
        RequestedOutput(_text(item, "name", "an output"), _parameters(item, "an output"))
        for item in _objects(document, "outputs")
    ]
    return InferRequest(
        "",
        inputs,
        id=_text(document, "id", "the request", ""),
        outputs=outputs,
        parameters=parameters,
        raw=parameters.get(_BINARY_OUTPUT) is True,
    )


def _decode_tensor(item: Mapping[str, Any], body: bytes, at: int) -> tuple[InferTensor, int]:
    """An input and where in the body its binary data ends."""
    name = _text(item, "name", "an input")
    where = f"input {name!r}"
    kind = _text(item, "datatype", where)
    parameters = _parameters(item, where)
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise ProtoError(f"{where}: shape: expected a list of whole numbers, got {shape!r:.100}")
    size = parameters.get(_BINARY_SIZE)
    try:
        if size is None:
            if "data" not in item:
                raise ProtoError("it has no data")
            array = _from_json(item["data"], kind, shape)
        else:
            if not isinstance(size, int) or not _is_size(size) or size > len(body) - at:
                raise ProtoError(f"{_BINARY_SIZE} is {size!r}, and {len(body) - at} bytes are left")
            if "data" in item:
                raise ProtoError("it has data and binary data")
            array = decode_raw(body, at, at + size, kind, shape)
            at += size
    except ProtoError as error:
        raise ProtoError(f"{where}: {error}") from None
    kept = {key: value for key, value in parameters.items() if key != _BINARY_SIZE}
    return InferTensor(name, kind, array, kept), at


def _from_json(data: Any, kind: str, shape: Sequence[int]) -> NDArray[Any]:
    """The array of flat or nested lists. Raises ProtoError when they do not fit."""
    known = datatype(kind)
    if kind == "BYTES":
        items = _flat(data)
        values: NDArray[Any] = np.empty(len(items), object)
        values[:] = [_as_bytes(item) for item in items]
        nested: tuple[int, ...] = (len(items),)
    else:
        try:
            values = np.asarray(data)
        except (ValueError, RecursionError):
            raise ProtoError("its data are lists of unequal lengths") from None
        nested = values.shape
        values = _as_datatype(values, data, kind, known.array)
    if values.size != count_of(shape) or (len(nested) > 1 and nested != tuple(shape)):
        raise ProtoError(
            f"its shape {list(shape)} has {prod(shape)} elements, its data has the shape {list(nested)}"
        )
    return values.reshape(shape)


def _as_datatype(values: NDArray[Any], data: Any, kind: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not values.size:
        return np.empty(values.shape, dtype)
    accepted = {"b": "b", "i": "iu", "u": "iu"}.get(dtype.kind, "fiu")
    if kind == "UINT64" and values.dtype.kind in "fO":
        # numpy makes floats of lists with numbers on both sides of 2**63.
        items = _flat(data)
        if all(_is_size(item) and item < 1 << 64 for item in items):
            return np.array(items, dtype).reshape(values.shape)
    if values.dtype.kind not in accepted:
        raise ProtoError(f"its data are not all of {kind}")
    return check_range(values, dtype, kind) if dtype.kind in "iu" else values.astype(dtype)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    if not any(isinstance(item, list) for item in data):
        return data
    return [leaf for item in data for leaf in _flat(item)]


def _as_bytes(item: Any) -> bytes:
    if not isinstance(item, str):
        raise ProtoError(f"an element of BYTES is a {type(item).__name__}, not a string")
    try:
        return item.encode()
    except UnicodeEncodeError as error:
        raise ProtoError(f"a string cannot be encoded as UTF-8: {error.reason}") from None


def _objects(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = document.get(key, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ProtoError(f"{key}: expected a list of objects")
    return found


def _text(item: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = item.get(key, default)
    if not isinstance(value, str):
        problem = "is missing" if value is None else f"must be a string, got {value!r:.100}"
        raise ProtoError(f"{where}: {key} {problem}")
    return value


def _parameters(item: Mapping[str, Any], where: str) -> dict[str, Parameter]:
    found = item.get("parameters", {})
    if not isinstance(found, dict) or not all(isinstance(value, _SCALARS) for value in found.values()):
        raise ProtoError(f"{where}: parameters: expected an object of strings, numbers and booleans")
    return found


def encode_response(
    model_name: str,
    outputs: Sequence[InferTensor],
    binary: Sequence[bool],
    *,
    model_version: str = "",
    id: str = "",  # noqa: A002 - the protocol's name
) -> tuple[bytes, int | None]:
    """An answer's body, and the length of its JSON where anything follows that.

    Args:
        binary: for each output whether its elements follow the JSON.

    Raises ProtoError when a BYTES element that is not UTF-8 should go into JSON.
    """
    described: list[dict[str, Any]] = []
    parts: list[bytes | memoryview] = []
    for tensor, behind in zip(outputs, binary, strict=True):
        item: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.array.shape),
        }
        try:
            if behind:
                content = encode_raw(tensor.array, tensor.datatype)
                item["parameters"] = {_BINARY_SIZE: len(content)}
                parts.append(content)
            else:
                item["data"] = _to_json(tensor)
        except ProtoError as error:
            raise ProtoError(f"output {tensor.name!r}: {error}") from None
        described.append(item)
    document: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if id:
        document["id"] = id
    document["outputs"] = described
    head = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return (b"".join([head, *parts]), len(head)) if parts else (head, None)


def _to_json(tensor: InferTensor) -> list[Any]:
    items: list[Any] = tensor.array.ravel().tolist()
    if tensor.datatype != "BYTES":
        return items
    try:
        return [item if isinstance(item, str) else bytes(item).decode() for item in items]
    except UnicodeDecodeError:
        raise ProtoError("it holds bytes that are no UTF-8 text; ask for it with binary_data") from None
