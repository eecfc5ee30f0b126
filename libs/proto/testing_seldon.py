"""Reference reading of SeldonMessage through generated classes, and messages to try it on.

Used against our stubs and, in seldon-core's own environment, against the official classes.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from libs.proto.seldon import DataKind, SeldonRequest, decode_message
from libs.proto.tensor import decode_tensor
from libs.proto.testing import assert_same


def python_value(value: Any) -> Any:
    """A google.protobuf.Value as a Python value, by its generated class."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {key: python_value(item) for key, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return [python_value(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def python_tag(value: Any) -> Any:
    """As `python_value`, with whole numbers as int."""
    plain = python_value(value)
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


def reference_payload(message: Any) -> tuple[DataKind | None, Any]:
    """Kind and payload of a generated SeldonMessage. ValueError for what our codec has to refuse."""
    which = message.WhichOneof("data_oneof")
    if which == "binData":
        return DataKind.BIN, message.binData
    if which == "strData":
        return DataKind.STR, message.strData
    if which == "jsonData":
        return DataKind.JSON, python_value(message.jsonData)
    if which == "customData":
        return DataKind.CUSTOM, message.customData
    if which is None:
        return None, None
    which = message.data.WhichOneof("data_oneof")
    if which == "tensor":
        tensor = message.data.tensor
        if min(tensor.shape, default=0) < -1:  # numpy takes every negative size for -1
            raise ValueError("negative dimension")
        return DataKind.TENSOR, np.array(tensor.values, np.float64).reshape(list(tensor.shape))
    if which == "tftensor":
        return DataKind.TFTENSOR, decode_tensor(message.data.tftensor.SerializeToString())
    return DataKind.NDARRAY, np.array([python_value(item) for item in message.data.ndarray.values])


def check_decoding(message_class: Any, data: bytes) -> SeldonRequest | None:
    """Assert that `decode_message(data)` reads what `message_class` reads; None when both must refuse."""
    message = message_class.FromString(data)
    try:
        kind, payload = reference_payload(message)
    except ValueError:
        try:
            decode_message(data)
        except ValueError:
            return None
        raise AssertionError("decoded what cannot be decoded") from None
    ours = decode_message(data)
    assert ours.kind is kind
    if kind is DataKind.CUSTOM:
        custom = type(payload).FromString(ours.payload)
        assert (custom.type_url, custom.value) == (payload.type_url, payload.value)
    else:
        assert_same(ours.payload, payload)
    if message.WhichOneof("data_oneof") == "data":
        assert ours.names == list(message.data.names)
    assert ours.puid == message.meta.puid
    tags = {key: python_tag(message.meta.tags[key]) for key in message.meta.tags}
    assert_same(ours.tags, tags)
    assert type(message.meta).FromString(ours.raw_meta) == message.meta
    assert type(message.status).FromString(ours.raw_status) == message.status
    return ours


NUMBERS = (0.0, -1.5, 39.0, 1e300, float("inf"), float("nan"), 2.0**53)
TEXTS = ("", "taskId", "一二", "a" * 200)


def random_value(rng: random.Random, depth: int = 3) -> Any:
    """A Python value for a google.protobuf.Value."""
    kinds = "nfsb" + "lLd" * (depth > 0)
    kind = rng.choice(kinds)
    if kind == "l":
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == "L":
        return [rng.choice(NUMBERS) for _ in range(rng.randrange(12))]
    if kind == "d":
        return {rng.choice(TEXTS): random_value(rng, depth - 1) for _ in range(rng.randrange(3))}
    return {"n": None, "f": rng.choice(NUMBERS), "s": rng.choice(TEXTS), "b": rng.random() < 0.5}[kind]


def fill_value(value: Any, plain: Any) -> None:
    """Set a generated google.protobuf.Value."""
    if plain is None:
        value.null_value = 0
    elif isinstance(plain, bool):
        value.bool_value = plain
    elif isinstance(plain, int | float):
        value.number_value = plain
    elif isinstance(plain, str):
        value.string_value = plain
    elif isinstance(plain, dict):
        value.struct_value.SetInParent()
        for key, item in plain.items():
            fill_value(value.struct_value.fields[key], item)
    else:
        value.list_value.SetInParent()
        for item in plain:
            fill_value(value.list_value.values.add(), item)


def random_message(rng: random.Random, message_class: Any) -> Any:
    """A generated SeldonMessage with a payload of any kind, mostly one that can be decoded."""
    message = message_class()
    kind = rng.choice(
        ("tensor", "ndarray", "matrix", "lists", "tftensor", "bin", "str", "json", "custom", "none")
    )
    if kind == "tensor":
        shape = [rng.randrange(4) for _ in range(rng.randrange(1, 4))]
        size = int(np.prod(shape))
        if rng.random() < 0.2:
            shape[rng.randrange(len(shape))] = rng.choice((-1, -2, 7, 2**31 - 1))
        message.data.tensor.shape.extend(shape)
        message.data.tensor.values.extend(rng.choice(NUMBERS) for _ in range(size))
    elif kind == "ndarray":
        message.data.ndarray.SetInParent()
        mixed = rng.random() < 0.3
        for _ in range(rng.randrange(20)):
            fill_value(
                message.data.ndarray.values.add(), random_value(rng, 2) if mixed else rng.choice(NUMBERS)
            )
    elif kind in ("matrix", "lists"):
        width = rng.randrange(20)
        for _ in range(rng.randrange(5)):
            if kind == "lists":
                width = rng.randrange(3)
            fill_value(message.data.ndarray.values.add(), [rng.choice(NUMBERS) for _ in range(width)])
    elif kind == "tftensor":
        message.data.tftensor.dtype = 1
        message.data.tftensor.tensor_shape.dim.add().size = 3
        message.data.tftensor.float_val.extend([1.5, 2.5])
    elif kind == "bin":
        message.binData = rng.randbytes(rng.randrange(300))
    elif kind == "str":
        message.strData = rng.choice(TEXTS)
    elif kind == "json":
        fill_value(message.jsonData, random_value(rng))
    elif kind == "custom":
        message.customData.type_url = "type.googleapis.com/x.Y"
        message.customData.value = b"\x08\x01"
    if kind in ("tensor", "matrix") and rng.random() < 0.3:
        message.data.names.extend(["a", "特征"])
    if rng.random() < 0.7:
        message.meta.puid = rng.choice(TEXTS)
        fill_value(message.meta.tags["taskId"], rng.choice((39, "39", 111.5, [1, 2.5])))
        fill_value(message.meta.tags["x"], random_value(rng, 2))
        message.meta.routing["r"] = -1
        message.meta.requestPath["model"] = "image:1"
        message.meta.metrics.add(key="m", type=2, value=1.5).tags["a"] = "b"
    if rng.random() < 0.2:
        message.status.code = 200
        message.status.info = "好"
        message.status.status = 1
    return message
