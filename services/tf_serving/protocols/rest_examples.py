"""The examples of a classify or regress request in JSON, as the serialized tf.Examples that models read.

Rules and texts are those of tensorflow_serving/util/json_tensor.cc: a feature's kind is that of its first value, and
a number is a float where it is written as one.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from libs.serving.errors import InvalidArgument
from services.tf_serving.execution.example_input import as_tensor
from services.tf_serving.protocols.rest_json import Document, is_base64, shown, text_bytes, type_name

CONTEXT = "context"
EXAMPLES = "examples"

_LEAST, _MOST, _MOST_UNSIGNED = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
_BYTES, _FLOAT, _INT64 = "bytes", "float", "int64"


def read(document: Document, example: Any) -> NDArray[Any]:
    """Serialized tf.Examples, objects (n,), each with the features of the context that all share.

    Args:
        example: the class of tf.train.Example.

    Raises:
        InvalidArgument: there is none, or one is wrong; says which feature.
    """
    context = _serialized(document[CONTEXT], example) if CONTEXT in document else b""
    if EXAMPLES not in document:
        raise _format_error(document, "When method is classify, key 'examples' is expected and was not found")
    examples = document[EXAMPLES]
    if not isinstance(examples, list):
        raise _format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _format_error(document, "'examples' value is an empty array")
    # Messages are merged by joining their bytes.
    return as_tensor([context + _serialized(each, example) for each in examples])


def _serialized(value: Any, example: Any) -> bytes:
    if not isinstance(value, dict):
        raise InvalidArgument(f"Example must be JSON object but got JSON {type_name(value)}")
    made = example()
    features = made.features.feature
    for name, content in value.items():
        values = content if isinstance(content, list) else [content]
        feature = features[name]
        kind = ""
        converted: list[Any] = []
        for each in values:
            found, plain = _value(name, each)
            if kind and found != kind:
                raise InvalidArgument(f"Unexpected element type in feature: {name} expecting type: {kind}")
            kind = found
            converted.append(plain)
        if kind:
            getattr(feature, f"{kind}_list").value.extend(converted)
    return bytes(made.SerializeToString())


def _value(name: str, value: Any) -> tuple[str, Any]:
    """The kind of a value, and itself as that."""
    if isinstance(value, bool):
        return _INT64, int(value)
    if isinstance(value, str) or is_base64(value):
        return _BYTES, text_bytes(value)
    if isinstance(value, float):
        return _FLOAT, value
    if isinstance(value, int):
        if _LEAST <= value <= _MOST:
            return _INT64, value
        if _MOST < value <= _MOST_UNSIGNED:
            raise InvalidArgument(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        return _FLOAT, _as_float(value)
    raise InvalidArgument(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InvalidArgument("JSON Parse error: Number too big to be stored in double.") from None


def _format_error(document: Document, why: str) -> InvalidArgument:
    return InvalidArgument(f"JSON Value: {shown(document)} {why}")
