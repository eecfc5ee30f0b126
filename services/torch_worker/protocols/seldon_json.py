"""SeldonMessages as JSON: requests to payloads, results to answers, as seldon-core's REST microservice reads and writes
them. Numbers stay what JSON says they are: a whole one is an int.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from libs.proto import messages
from libs.proto.seldon import DataKind
from libs.proto.tensor import decode_tensor, encode_tensor
from libs.proto.wire import ProtoError
from libs.serving.errors import Internal, InvalidArgument
from services.torch_worker.model.answer import Answer
from services.torch_worker.protocols.seldon_answers import (
    column_names,
    own_metrics,
    own_request_path,
    respond,
)

# As in messages: data.tensor, else data.ndarray ...; data, else jsonData ...
_ARRAYS = (DataKind.TENSOR, DataKind.NDARRAY, DataKind.TFTENSOR)
_OTHERS = (DataKind.JSON, DataKind.STR, DataKind.BIN)


@dataclass(slots=True)
class JsonRequest:
    """A SeldonMessage that came as JSON.

    Attributes:
        kind: of the payload; None for `data` that holds none.
        payload: as in `libs.proto.seldon.SeldonRequest`, but for whole numbers, which stay ints.
        names: of the columns.
        meta: as sent.
    """

    kind: DataKind | None
    payload: Any
    names: list[str]
    meta: Mapping[str, Any]


def decode_json(body: bytes | str) -> JsonRequest:
    """Read a SeldonMessage.

    Raises:
        InvalidArgument: the text is no JSON, or no SeldonMessage with a payload.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the request is not valid JSON: {error}") from None
    return read_document(document)


def read_document(document: Any) -> JsonRequest:
    """Read a SeldonMessage from what JSON gave. Raises InvalidArgument as `decode_json` does."""
    if not isinstance(document, Mapping):
        raise InvalidArgument("expected a JSON object, a SeldonMessage")
    meta = document.get("meta") or {}
    if not isinstance(meta, Mapping) or not isinstance(meta.get("tags") or {}, Mapping):
        raise InvalidArgument("meta and meta.tags: expected objects")
    if "data" in document:
        data = document["data"]
        if not isinstance(data, Mapping):
            raise InvalidArgument("data: expected an object")
        names = data.get("names") or []
        if not isinstance(names, list):
            raise InvalidArgument("data.names: expected a list")
        kind = next((kind for kind in _ARRAYS if kind.value in data), None)
        payload = np.empty(0) if kind is None else _array(kind, data[kind.value])
        return JsonRequest(kind, payload, [str(name) for name in names], meta)
    for kind in _OTHERS:
        if kind.value in document:
            return JsonRequest(kind, _other(kind, document[kind.value]), [], meta)
    raise InvalidArgument(
        "the SeldonMessage carries no payload; expected one of data.tensor, data.ndarray, data.tftensor, "
        "binData, strData, jsonData"
    )


def _array(kind: DataKind, value: Any) -> np.ndarray[Any, Any]:
    field = f"data.{kind.value}"
    try:
        if kind is DataKind.TFTENSOR:
            return decode_tensor(_tensor_proto(value))
        if kind is DataKind.NDARRAY:
            if not isinstance(value, list):
                raise ValueError("expected a list")
            return np.array(value)
        if not isinstance(value, Mapping) or not isinstance(value.get("values"), list):
            raise ValueError("expected an object with shape and values")
        values = np.array(value["values"])
        if values.dtype.kind not in "fiub":
            raise ValueError("values: expected numbers")
        return values.reshape(value.get("shape", values.shape))
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"{field}: {error}") from None


def _tensor_proto(value: Any) -> bytes:
    from google.protobuf import json_format

    try:
        return json_format.ParseDict(value, messages.TensorProto()).SerializeToString()
    except (json_format.ParseError, AttributeError, TypeError) as error:
        raise ValueError(f"not a TensorProto: {error}") from None


def _other(kind: DataKind, value: Any) -> Any:
    if kind is DataKind.JSON:
        return value
    if not isinstance(value, str):
        raise InvalidArgument(f"{kind.value}: expected a string")
    if kind is DataKind.STR:
        return value
    try:
        return base64.b64decode(value)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"binData: expected base64: {error}") from None


def encode_json(request: JsonRequest, result: Any, class_names: tuple[str, ...] | None) -> bytes:
    """The SeldonMessage that answers request with result.

    Raises:
        Internal: the result is of a type, or has values, that no answer can carry.
    """
    meta = answer_meta(request.meta)
    if isinstance(result, Answer):
        meta |= {"tags": dict(result.tags)} if result.tags else {}
        if result.metrics:
            meta["metrics"] = [*meta.get("metrics", ()), *own_metrics(result)]
        result, class_names = result.payload, result.names if result.names is not None else class_names
    kind, payload = respond(request.kind, result)
    document: dict[str, Any] = {}
    if isinstance(payload, np.ndarray):
        data: dict[str, Any] = {"names": list(column_names(payload, class_names))}
        if kind is DataKind.TENSOR:
            data["tensor"] = {"shape": list(payload.shape), "values": payload.ravel().tolist()}
        elif kind is DataKind.TFTENSOR:
            data["tftensor"] = _tensor_document(payload)
        else:
            data["ndarray"] = payload.tolist() if payload.ndim else [payload.item()]
        document["data"] = data
    elif kind is DataKind.BIN:
        document["binData"] = base64.b64encode(payload).decode()
    elif kind is DataKind.CUSTOM:
        raise Internal("customData cannot be answered in JSON")
    else:
        document[kind.value] = payload
    document["meta"] = meta
    try:
        return json.dumps(document, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise Internal(f"the answer cannot be encoded as JSON: {error}") from error


def answer_meta(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answer's meta: the request's tags, metrics, puid and requestPath, each where there is one."""
    meta = {key: asked[key] for key in ("tags", "metrics", "puid") if asked.get(key)}
    path = {**own_request_path(), **(asked.get("requestPath") or {})}
    if path:
        meta["requestPath"] = path
    return meta


def _tensor_document(array: np.ndarray[Any, Any]) -> Any:
    from google.protobuf import json_format

    try:
        return json_format.MessageToDict(messages.TensorProto.FromString(encode_tensor(array)))
    except ProtoError as error:
        raise Internal(f"the answer cannot be encoded as tftensor: {error}") from error
