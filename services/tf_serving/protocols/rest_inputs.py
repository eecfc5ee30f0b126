"""The tensors of a predict request in JSON: `instances`, row by row, or `inputs`, tensor by tensor.

Rules and texts are those of tensorflow_serving/util/json_tensor.cc. Values are taken in bulk, level by level; only a
request that is wrong is walked through value by value, for the words that say what is wrong with it.

Where TensorFlow Serving goes on with something else than it was given, this does not: a whole number that its dtype
cannot hold is refused, not cut to fewer bits. And half, bfloat16 and uint16, which it refuses, are read as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from libs.proto.dtypes import DataType, element_type
from libs.serving.errors import InvalidArgument, ServingError, Unimplemented
from libs.serving.status import grpc_code
from services.tf_serving.execution.inference import Tensor
from services.tf_serving.model.signature import Shape, TensorSpec, dtype_name
from services.tf_serving.protocols.rest_json import Document, is_base64, shown, text_bytes, type_name

INSTANCES = "instances"
INPUTS = "inputs"

_FLOATS = frozenset({DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_HALF, DataType.DT_BFLOAT16})
_INTEGERS = frozenset(
    {
        *(DataType.DT_INT8, DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64),
        *(DataType.DT_UINT8, DataType.DT_UINT16, DataType.DT_UINT32, DataType.DT_UINT64),
    }
)
_KINDS: dict[int, frozenset[type]] = {
    **dict.fromkeys(map(int, _FLOATS), frozenset({int, float})),
    **dict.fromkeys(map(int, _INTEGERS), frozenset({int})),
    int(DataType.DT_BOOL): frozenset({bool}),
    int(DataType.DT_STRING): frozenset({str, dict}),
}
"""What a value of a dtype may be in JSON."""


@dataclass(slots=True)
class Given:
    """What a request gives.

    Attributes:
        by_row: whether the answer is to be given row by row.
        narrow: rows of one value were given as the value: `[1.0, 2.0]` where the signature has [?,1]. The answer is
            written in the same way.
    """

    by_row: bool
    tensors: dict[str, Tensor] = field(default_factory=dict)
    narrow: bool = False

    def add(self, name: str, array: NDArray[Any], spec: TensorSpec) -> None:
        """One input."""
        if array.ndim == 1 and spec.shape is not None and len(spec.shape) == 2 and spec.shape[1] == 1:
            array = array[:, None]
            self.narrow = True
        self.tensors[name] = (spec.data_type, array.shape, array)


class _UnevenError(Exception):
    """The values are not those of one tensor of the dtype."""


def read(document: Document, inputs: Mapping[str, TensorSpec]) -> Given:
    """The tensors of a request for a signature with these inputs, of which there is at least one.

    Raises:
        InvalidArgument: the values are not the inputs' own; says which and why.
        Unimplemented: an input's dtype has no form in JSON.
    """
    if INSTANCES in document and INPUTS in document:
        raise _format_error(
            document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if INSTANCES in document:
        rows = document[INSTANCES]
        if not isinstance(rows, list):
            raise _format_error(document, "Expecting 'instances' to be an list/array")
        if not rows:
            raise _format_error(document, "No values in 'instances' array")
        return _rows(rows, inputs)
    if INPUTS in document:
        return _columns(document[INPUTS], inputs)
    raise InvalidArgument("Missing 'inputs' or 'instances' key")


def _rows(rows: list[Any], inputs: Mapping[str, TensorSpec]) -> Given:
    given = Given(by_row=True)
    if not _is_object(rows[0]):
        if len(inputs) > 1:
            raise InvalidArgument(
                "instances is a plain list, but expecting list of objects as multiple "
                "input tensors required as per tensorinfo_map"
            )
        ((name, spec),) = inputs.items()
        try:
            given.add(name, _array(rows, spec.data_type), spec)
        except _UnevenError:
            _explain_values(rows, name, spec)
        return given
    names = inputs.keys()
    if any(not isinstance(row, dict) or row.keys() != names for row in rows):
        _explain_objects(rows, inputs)
    for name, spec in inputs.items():
        try:
            given.add(name, _array([row[name] for row in rows], spec.data_type), spec)
        except _UnevenError:
            _explain_objects(rows, inputs)
    return given


def _columns(value: Any, inputs: Mapping[str, TensorSpec]) -> Given:
    given = Given(by_row=False)
    if not _is_object(value):
        if len(inputs) > 1:
            raise InvalidArgument(
                "inputs is a plain value/list, but expecting an object as multiple "
                "input tensors required as per tensorinfo_map"
            )
        value = dict.fromkeys(inputs, value)
    for name, spec in inputs.items():
        if name not in value:
            raise InvalidArgument(f"Missing named input: {name} in 'inputs' object.")
        try:
            given.add(name, _array(value[name], spec.data_type), spec)
        except _UnevenError:
            _walk(value[name], _shape(value[name]), 0, spec.data_type)
            _no_tensor(name)
    return given


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _array(value: Any, data_type: int) -> NDArray[Any]:
    """Nested lists as one array. Raises _UnevenError; InvalidArgument for base64 that is wrong."""
    shape: list[int] = []
    values = [value]
    while values and isinstance(values[0], list):
        size = len(values[0])
        if not {list}.issuperset(map(type, values)) or not {size}.issuperset(map(len, values)):
            raise _UnevenError
        shape.append(size)
        values = list(chain.from_iterable(values))
    kinds = _KINDS.get(data_type)
    if kinds is None or not kinds.issuperset(map(type, values)):
        raise _UnevenError
    return _of_values(values, data_type).reshape(shape)


def _of_values(values: list[Any], data_type: int) -> NDArray[Any]:
    if data_type == DataType.DT_STRING:
        try:
            strings = list(map(text_bytes, values))
        except InvalidArgument as error:
            raise _UnevenError from error
        array = np.empty(len(values), object)
        array[:] = strings
        return array
    dtype = element_type(data_type).array
    # bfloat16 cannot be made of whole numbers.
    first = np.dtype(np.float64) if data_type == DataType.DT_BFLOAT16 else dtype
    try:
        with np.errstate(over="ignore"):  # beyond the largest is infinity, as in TensorFlow Serving
            return np.array(values, first).astype(dtype, copy=False)
    except OverflowError:
        raise _UnevenError from None


def _shape(value: Any) -> Shape:
    """The shape that the first values have."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _walk(value: Any, shape: Shape, level: int, data_type: int) -> int:
    """How many values there are. Raises the error of the first that is wrong."""
    if not isinstance(value, list):
        if level != len(shape):
            raise InvalidArgument(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} "
                f"in the JSON DOM. Expected at level: {len(shape)}"
            )
        _check_value(value, data_type)
        return 1
    if level >= len(shape):
        raise InvalidArgument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise InvalidArgument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    return sum([_walk(part, shape, level + 1, data_type) for part in value])


def _check_value(value: Any, data_type: int) -> None:
    kinds = _KINDS.get(data_type)
    if kinds is None:
        raise Unimplemented(f"Conversion of JSON Value: {shown(value)} to type: {dtype_name(data_type)}")
    if type(value) in kinds:
        if data_type == DataType.DT_STRING:
            text_bytes(value)
            return
        try:
            _of_values([value], data_type)
            return
        except _UnevenError:
            pass
    raise InvalidArgument(
        f"JSON Value: {shown(value)} Type: {type_name(value)} "
        f"is not of expected type: {dtype_name(data_type)}"
    )


class _Like:
    """Items of one input, which must all be like the first."""

    def __init__(self, spec: TensorSpec) -> None:
        self._data_type = spec.data_type
        self._first: tuple[int, Shape] | None = None

    def check(self, item: Any) -> None:
        shape = _shape(item)
        size = _walk(item, shape, 0, self._data_type)
        if self._first is None:
            self._first = size, shape
        elif self._first[0] != size:
            raise InvalidArgument(f"Expecting tensor size: {self._first[0]} but got: {size}")
        elif self._first[1] != shape:
            raise InvalidArgument(f"Expecting shape {_text(self._first[1])} but got: {_text(shape)}")


def _explain_values(rows: Sequence[Any], name: str, spec: TensorSpec) -> NoReturn:
    like = _Like(spec)
    for index, row in enumerate(rows):
        if _is_object(row):
            raise InvalidArgument(f"Expecting value/list but got object at item {index} of input list")
        try:
            like.check(row)
        except ServingError as error:
            raise InvalidArgument(
                f"Failed to process element: {index} of 'instances' list. Error: {_status(error)}"
            ) from error
    _no_tensor(name)


def _explain_objects(rows: Sequence[Any], inputs: Mapping[str, TensorSpec]) -> NoReturn:
    likes = {name: _Like(spec) for name, spec in inputs.items()}
    for index, row in enumerate(rows):
        if not _is_object(row):
            raise InvalidArgument(f"Expecting object but got list at item {index} of input list")
        for name, item in row.items():
            try:
                if name not in likes:
                    raise InvalidArgument(f"JSON object: does not have named input: {name}")
                likes[name].check(item)
            except ServingError as error:
                raise InvalidArgument(
                    f"Failed to process element: {index} key: {name} of 'instances' list. "
                    f"Error: {_status(error)}"
                ) from error
        if row.keys() != inputs.keys():
            raise InvalidArgument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {shown(row)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    _no_tensor(",".join(inputs))


def _no_tensor(name: str) -> NoReturn:
    raise InvalidArgument(f"the values of {name} are no tensor: expected lists of equal sizes at every level")


def _status(error: ServingError) -> str:
    return f"{grpc_code(error).name}: {error.message}"


def _text(shape: Shape) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _format_error(document: Document, why: str) -> InvalidArgument:
    return InvalidArgument(f"JSON Value: {shown(document)} {why}")
