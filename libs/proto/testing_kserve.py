"""Reference reading of ModelInferRequest and ModelInferResponse through generated classes, and samples.

Used against our stubs and against tritonclient's classes.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np

from libs.proto.kserve import InferTensor, Parameter, decode_request, decode_response
from libs.proto.kserve_tensor import DATATYPES
from libs.proto.testing import assert_same

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def random_array(rng: random.Random, datatype: str) -> Any:
    """An array of the datatype with up to three dimensions of up to four elements."""
    shape = [rng.randrange(5) for _ in range(rng.randrange(4))]
    count = int(np.prod(shape))
    dtype = DATATYPES[datatype].array
    if datatype == "BYTES":
        array = np.empty(count, object)
        array[:] = [rng.randbytes(rng.randrange(6)) for _ in range(count)]
    elif datatype == "BOOL":
        array = np.array([rng.random() < 0.5 for _ in range(count)], bool)
    elif datatype == "BF16":
        array = np.array([rng.choice((0.0, 1.5, -2.0, 1e30)) for _ in range(count)], np.float32).astype(dtype)
    else:
        array = np.frombuffer(rng.randbytes(count * dtype.itemsize), dtype)
    return array.reshape(shape)


def reference_array(tensor: Any, raw: bytes | None) -> Any:
    """A generated tensor's array. ValueError for what our codec has to refuse."""
    kind = DATATYPES.get(tensor.datatype)
    shape = list(tensor.shape)
    if kind is None or min(shape, default=0) < 0 or (raw is not None and tensor.HasField("contents")):
        raise ValueError("bad tensor")
    if raw is not None and tensor.datatype == "BYTES":
        items = []
        while raw:
            (size,) = struct.unpack_from("<I", raw)  # struct.error is turned below
            if 4 + size > len(raw):
                raise ValueError("cut off")
            items.append(raw[4 : 4 + size])
            raw = raw[4 + size :]
        array = np.empty(len(items), object)
        array[:] = items
        return array.reshape(shape)
    if raw is not None:
        array = np.frombuffer(raw, kind.wire)
        if tensor.datatype == "BOOL":
            array = np.frombuffer(raw, np.uint8) != 0
        elif kind.wire is not kind.array:
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.reshape(shape)
    if tensor.datatype not in CONTENTS:
        raise ValueError("no contents for this datatype")
    values = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
    if tensor.datatype == "BYTES":
        array = np.empty(len(values), object)
        array[:] = values
        return array.reshape(shape)
    if kind.array.kind in "iu" and values:
        limits = np.iinfo(kind.array)
        if min(values) < limits.min or max(values) > limits.max:
            raise ValueError("out of range")
    return np.array(values, kind.array).reshape(shape)


def reference_parameters(parameters: Any) -> dict[str, Any]:
    """A generated map of InferParameter as Python values."""
    found = {}
    for key in parameters:
        choice = parameters[key].WhichOneof("parameter_choice")
        found[key] = getattr(parameters[key], choice) if choice else None
    return found


def check_decoding(message: Any, data: bytes) -> None:
    """Assert that our codec reads from `data` what the generated `message`, parsed from it, holds."""
    is_request = "raw_input_contents" in message.DESCRIPTOR.fields_by_name
    tensors = message.inputs if is_request else message.outputs
    raw = list(message.raw_input_contents if is_request else message.raw_output_contents)
    try:
        if raw and len(raw) != len(tensors):
            raise ValueError("raw contents")
        arrays = [reference_array(tensor, raw[at] if raw else None) for at, tensor in enumerate(tensors)]
    except (ValueError, struct.error):
        try:
            decode_request(data) if is_request else decode_response(data)
        except ValueError:
            return
        raise AssertionError("decoded what cannot be decoded") from None
    ours_tensors: Any
    if is_request:
        request = decode_request(data)
        ours: Any = request
        ours_tensors = request.inputs
        wanted = [(item.name, reference_parameters(item.parameters)) for item in message.outputs]
        assert [(item.name, dict(item.parameters)) for item in request.outputs] == wanted
    else:
        ours = decode_response(data)
        ours_tensors = ours.outputs
    assert (ours.model_name, ours.model_version, ours.id, ours.raw) == (
        message.model_name,
        message.model_version,
        message.id,
        bool(raw),
    )
    assert_same(dict(ours.parameters), reference_parameters(message.parameters))
    assert len(ours_tensors) == len(tensors)
    for our, tensor, array in zip(ours_tensors, tensors, arrays, strict=True):
        assert (our.name, our.datatype) == (tensor.name, tensor.datatype)
        assert_same(dict(our.parameters), reference_parameters(tensor.parameters))
        assert_same(our.array, array)


PARAMETERS: list[dict[str, Parameter]] = [
    {},
    {"a": True, "b": -5, "c": "三", "d": 1.5, "e": 2**63, "f": None},
]


def random_tensors(rng: random.Random, typed: bool = False) -> list[InferTensor]:
    """Up to three tensors; `typed` leaves out the datatypes that only raw contents can carry."""
    names = sorted(CONTENTS) if typed else sorted(DATATYPES)
    chosen = [rng.choice(names) for _ in range(rng.randrange(4))]
    return [
        InferTensor(f"输入{at}", name, random_array(rng, name), rng.choice(PARAMETERS))
        for at, name in enumerate(chosen)
    ]
