"""Answers in JSON, as TensorFlow Serving writes them (tensorflow_serving/util/json_tensor.cc).

A float is written with six digits where those say which it is, else with as many as always do, and so that it is seen
to be one: 3.0. NaN and infinity are the words that Python and JavaScript know. Strings go out as the bytes that they
are, whether or not those are UTF-8, unless the output's name ends in _bytes.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto.dtypes import DataType
from libs.serving.errors import InvalidArgument
from services.tf_serving.model.methods import Classified
from services.tf_serving.model.signature import Shape, dtype_name

Output = tuple[int, NDArray[Any]]
"""DataType and values."""

_BYTES_SUFFIX = "_bytes"

# Digits that tell any two numbers of a type apart: max_digits10.
_DIGITS = {
    int(DataType.DT_FLOAT): 9,
    int(DataType.DT_DOUBLE): 17,
    int(DataType.DT_HALF): 6,
    int(DataType.DT_BFLOAT16): 6,
}
_INTEGERS = frozenset(
    map(
        int,
        (
            *(DataType.DT_INT8, DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64),
            *(DataType.DT_UINT8, DataType.DT_UINT16, DataType.DT_UINT32, DataType.DT_UINT64),
        ),
    )
)
_quoted = json.JSONEncoder(ensure_ascii=False).encode


def by_row(outputs: Mapping[str, Output]) -> bytes:
    """`{"predictions": [...]}`, an item for each row: the output's values, of several outputs an object of them.

    Raises:
        InvalidArgument: an output has no rows or another number of them, or a dtype that JSON has no form for.
    """
    count = -1
    for name, (_, array) in outputs.items():
        if not array.shape:
            raise InvalidArgument(f"Tensor name: {name} has no shape information ")
        if count >= 0 and len(array) != count:
            raise InvalidArgument(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {count}"
            )
        count = len(array)
    columns = [_nested(_values(name, output), output[1].shape[1:], count) for name, output in outputs.items()]
    if len(columns) == 1:
        rows: Iterable[str] = columns[0]
    else:
        keys = [_quoted(name) for name in outputs]
        rows = (_object(keys, values) for values in zip(*columns, strict=True))
    return _encoded('{"predictions": [' + ", ".join(rows) + "]}")


def by_column(outputs: Mapping[str, Output]) -> bytes:
    """`{"outputs": ...}`: the output's values, of several outputs an object of them. Raises InvalidArgument."""
    values = [_nested(_values(name, output), output[1].shape, 1)[0] for name, output in outputs.items()]
    whole = values[0] if len(values) == 1 else _object([_quoted(name) for name in outputs], values)
    return _encoded('{"outputs": ' + whole + "}")


def classification(answer: Classified) -> bytes:
    """`{"results": [[["label", score], ...], ...]}`, a list for each example."""
    classes, scores = answer.classes, answer.scores
    known = classes if classes is not None else scores
    assert known is not None  # what was classified has one or the other
    count, width = known.shape
    labels = ['""'] * known.size if classes is None else _strings(classes)
    numbers = ["0.0"] * known.size if scores is None else _floats(scores, int(DataType.DT_FLOAT))
    pairs = [f"[{label}, {number}]" for label, number in zip(labels, numbers, strict=True)]
    return _encoded('{"results": [' + ", ".join(_nested(pairs, (width,), count)) + "]}")


def regression(values: NDArray[np.float32]) -> bytes:
    """`{"results": [value, ...]}`, a value for each example."""
    return _encoded('{"results": [' + ", ".join(_floats(values, int(DataType.DT_FLOAT))) + "]}")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _object(keys: Sequence[str], values: Sequence[str]) -> str:
    return "{" + ", ".join([f"{key}: {value}" for key, value in zip(keys, values, strict=True)]) + "}"


def _nested(values: list[str], shape: Shape, count: int) -> list[str]:
    """So many arrays of a shape, from their values one after the other."""
    for axis in reversed(range(len(shape))):
        size, groups = shape[axis], count * prod(shape[:axis])
        values = ["[" + ", ".join(values[at * size : (at + 1) * size]) + "]" for at in range(groups)]
    return values


def _values(name: str, output: Output) -> list[str]:
    data_type, array = output
    if data_type == DataType.DT_STRING:
        return _base64(array) if name.endswith(_BYTES_SUFFIX) else _strings(array)
    if data_type in _DIGITS:
        return _floats(array, data_type)
    if data_type == DataType.DT_BOOL:
        return ["true" if value else "false" for value in array.reshape(-1).tolist()]
    if data_type in _INTEGERS:
        return list(map(str, array.reshape(-1).tolist()))
    raise InvalidArgument(f"Failed to write JSON value for tensor type: {dtype_name(data_type)}")


def _strings(array: NDArray[Any]) -> list[str]:
    return [_quoted(value.decode("utf-8", "surrogateescape")) for value in array.reshape(-1).tolist()]


def _base64(array: NDArray[Any]) -> list[str]:
    return [f'{{"b64": "{b64encode(value).decode()}"}}' for value in array.reshape(-1).tolist()]


def _floats(array: NDArray[Any], data_type: int) -> list[str]:
    flat = array.reshape(-1)
    values = flat.astype(np.float64).tolist()
    if not values:
        return []
    texts = ("%g\n" * len(values) % tuple(values)).split("\n")[:-1]
    with np.errstate(over="ignore"):
        again = np.array(list(map(float, texts))).astype(flat.dtype)
    for at in np.flatnonzero(again != flat).tolist():  # NaN is among them
        texts[at] = "%.*g" % (_DIGITS[data_type], values[at])
    return [_float(text) for text in texts]


def _float(text: str) -> str:
    if "." in text or "e" in text:
        return text
    return _WORDS.get(text) or text + ".0"


_WORDS = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
