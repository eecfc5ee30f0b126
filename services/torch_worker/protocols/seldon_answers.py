"""From a hook's result to the response message, by the rules of seldon-core's Python wrapper.

Arrays and lists are answered in the kind that was asked in when the request carried `data` and they are
numbers; numbers to other requests become a tensor, what is not numbers an ndarray. str, bytes, dict and
google.protobuf.Any become strData, binData, jsonData and customData. Arrays of two and more dimensions carry
column names. The request's puid, tags, requestPath and metrics are echoed, its routing is not.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from libs.proto.seldon import (
    DataKind,
    Metric,
    SeldonRequest,
    decode_meta,
    encode_message,
    encode_meta,
)
from libs.proto.wire import fields
from libs.serving.errors import Internal, InvalidArgument
from services.torch_worker.execution.tensors import listed, plain
from services.torch_worker.model.answer import Answer
from services.torch_worker.protocols.seldon_patterns import AnswerEncoder


def encode_answer(
    request: SeldonRequest,
    result: Any,
    class_names: tuple[str, ...] | None = None,
    tensors: AnswerEncoder | None = None,
) -> bytes:
    """The SeldonMessage that answers request with result.

    Args:
        result: what postprocess returned: array, tensor, list, tuple, number, str, bytes, dict or
            google.protobuf.Any, or an Answer with one of these.
        class_names: `data.names`; None for t:0, t:1 ... of dimension 1, as seldon-core.
        tensors: encodes data.tensor, of its own thread; None for the codec itself.

    Raises:
        Internal: the result is of a type, or has values, that no response can carry.
    """
    asked_names = class_names
    # Most answers are arrays of numbers to requests like the one before.
    usual = tensors is not None and request.kind is DataKind.TENSOR and type(result) is np.ndarray
    if usual and result.dtype.kind in "fiu":
        assert tensors is not None
        reply = tensors.reply(result, request.raw_meta, class_names)
        if reply is not None:
            return reply
    meta = None
    if type(result) is Answer:
        meta = answered_meta(request.raw_meta, result)
        result, class_names = result.payload, result.names if result.names is not None else class_names
    kind, payload = respond(request.kind, result)
    names = column_names(payload, class_names) if isinstance(payload, np.ndarray) else ()
    if meta is None:
        meta = echoed_meta(request.raw_meta)
    try:
        if kind is DataKind.TENSOR and tensors is not None:
            message = tensors.encode_tensor(payload, names, meta)
            if usual:
                tensors.keep_reply(payload, request.raw_meta, asked_names, names, meta)
            return message
        return encode_message(kind, payload, names=names, meta=meta)
    except (ValueError, TypeError) as error:
        raise Internal(f"the answer cannot be encoded as {kind.name.lower()}: {error}") from error


def custom_payload(raw: bytes) -> Any:
    """What hooks get of customData: a google.protobuf.Any.

    Raises:
        InvalidArgument: the bytes are none.
    """
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.message import DecodeError

    try:
        return AnyMessage.FromString(raw)
    except DecodeError as error:
        raise InvalidArgument(f"customData cannot be read: {error}") from error


def respond(asked: DataKind | None, result: Any) -> tuple[DataKind, Any]:
    """The kind in which a result is answered to a request of kind asked, and the payload for the codec.

    Raises:
        Internal: the result is None, of an unknown type, or a list that is no array.
    """
    if isinstance(result, np.ndarray):
        array = result
    elif isinstance(result, str):
        return DataKind.STR, result
    elif isinstance(result, bytes | bytearray | memoryview):
        return DataKind.BIN, bytes(result)
    elif isinstance(result, dict):
        return DataKind.JSON, listed(result)
    elif isinstance(result, list | tuple | torch.Tensor | np.generic | int | float):
        array = _as_array(result)
    elif getattr(getattr(result, "DESCRIPTOR", None), "full_name", "") == "google.protobuf.Any":
        return DataKind.CUSTOM, result.SerializeToString()
    else:
        raise Internal(
            f"the result is of type {type(result).__name__}; the model, or its postprocess, must return an array, a "
            "list, a number, a str, bytes or a dict"
        )
    if array.dtype.kind in "fiu":
        return (asked if asked is DataKind.NDARRAY or asked is DataKind.TFTENSOR else DataKind.TENSOR), array
    if array.dtype.kind == "c":
        raise Internal("the result has complex numbers, which no response can carry")
    return DataKind.NDARRAY, array


def _as_array(result: Any) -> np.ndarray[Any, Any]:
    if _holds_tensors(result):
        result = plain(result)
    try:
        return np.asarray(result)
    except ValueError as error:
        raise Internal(
            "the result is a list whose parts have different lengths, which is no array; let postprocess "
            f"return a dict or lists of one length ({error})"
        ) from error


def _holds_tensors(result: Any) -> bool:
    while isinstance(result, list | tuple) and result:
        result = result[0]
    return isinstance(result, torch.Tensor)


def column_names(array: np.ndarray[Any, Any], class_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """`data.names` of an answer: class_names, else t:0, t:1 ... of dimension 1; none below two dimensions."""
    if array.ndim < 2:
        return ()
    return class_names if class_names is not None else default_names(array.shape[1])


@lru_cache(maxsize=256)
def default_names(columns: int) -> tuple[str, ...]:
    """t:0, t:1 ... as seldon-core names the columns of an answer."""
    return tuple(f"t:{i}" for i in range(columns))


def own_request_path() -> dict[str, str]:
    """This node of an inference graph and its image, which Seldon's operator says in the environment; mostly empty."""
    node = os.environ.get("PREDICTIVE_UNIT_ID")
    return {node: os.environ.get("PREDICTIVE_UNIT_IMAGE", "NOT_IMPLEMENTED:NOT_IMPLEMENTED")} if node else {}


_OWN_PATH = encode_meta(request_path=own_request_path())
# seldon.protos.Meta: routing is field 3.
_ROUTING = 3
# By their numbers.
METRIC_TYPES = ("COUNTER", "GAUGE", "TIMER")
# Callers mostly send the same few metas (one task id); longer ones hold a puid each and would only fill the
# cache.
_CACHED_META_BYTES = 128


def echoed_meta(raw: bytes) -> bytes:
    """The response's Meta for a request's: the same without routing, which seldon-core does not echo, and with this
    node of the inference graph in requestPath.
    """
    if not raw:
        return _OWN_PATH
    return _short_meta(raw) if len(raw) <= _CACHED_META_BYTES else _without_routing(raw)


def answered_meta(raw: bytes, answer: Answer) -> bytes:
    """The response's Meta for a request's, with the tags and metrics of the model's own.

    Raises:
        Internal: no message can carry these.
    """
    asked = decode_meta(raw)
    try:
        own = [
            Metric(
                str(m["key"]), float(m["value"]), METRIC_TYPES.index(m.get("type", "COUNTER")), m.get("tags")
            )
            for m in own_metrics(answer)
        ]
        return encode_meta(
            puid=asked.puid,
            tags=asked.tags if answer.tags is None else answer.tags,
            request_path={**own_request_path(), **asked.request_path},
            metrics=[*asked.metrics, *own],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise Internal(
            f"the model's tags or metrics cannot be sent: {type(error).__name__}: {error}"
        ) from error


def further_meta(raw: bytes) -> dict[str, Any]:
    """What hooks get of a request's Meta besides puid and tags, as JSON has it: without what is empty."""
    meta = decode_meta(raw)
    metrics = []
    for metric in meta.metrics:
        described: dict[str, Any] = {"key": metric.key, "value": metric.value}
        if 0 < metric.type < len(METRIC_TYPES):
            described["type"] = METRIC_TYPES[metric.type]
        if metric.tags:
            described["tags"] = dict(metric.tags)
        metrics.append(described)
    found = {"routing": meta.routing, "requestPath": meta.request_path, "metrics": metrics}
    return {key: value for key, value in found.items() if value}


def own_metrics(answer: Answer) -> list[dict[str, Any]]:
    """The model's metrics as seldon-core sends them: where they have tags, with the tag `method`."""
    return [
        {**metric, "tags": {**metric["tags"], "method": "predict"}} if "tags" in metric else dict(metric)
        for metric in answer.metrics
    ]


def _without_routing(raw: bytes) -> bytes:
    kept = [_OWN_PATH]  # what the request says of this node comes later, and so wins
    start = 0
    for tag, _, end in fields(raw, 0, len(raw)):
        if tag >> 3 != _ROUTING:
            kept.append(raw[start:end])
        start = end
    return b"".join(kept)


_short_meta = lru_cache(maxsize=1024)(_without_routing)
