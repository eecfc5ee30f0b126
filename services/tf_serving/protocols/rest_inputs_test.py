from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.proto.dtypes import DataType, element_type
from libs.serving.errors import InvalidArgument, ServingError, Unimplemented
from services.tf_serving.model.signature import Shape, TensorSpec
from services.tf_serving.protocols.rest_inputs import read

INT = DataType.DT_INT32
NUMBERS = [
    *(DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_HALF, DataType.DT_BFLOAT16),
    *(DataType.DT_INT8, DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64),
    *(DataType.DT_UINT8, DataType.DT_UINT16, DataType.DT_UINT32, DataType.DT_UINT64),
]


def spec(data_type: int, shape: Shape | None = None) -> TensorSpec:
    return TensorSpec("t:0", int(data_type), shape)


def one(key: str, value: Any, data_type: int = INT, shape: Shape | None = None) -> np.ndarray[Any, Any]:
    """The one input x."""
    found = read({key: value}, {"x": spec(data_type, shape)})
    assert found.by_row == (key == "instances")
    kind, given_shape, array = found.tensors["x"]
    assert kind == data_type and given_shape == array.shape
    return array


def problem(document: dict[str, Any], **inputs: TensorSpec) -> str:
    with pytest.raises(ServingError) as caught:
        read(document, inputs)
    return caught.value.message


@pytest.mark.parametrize("data_type", NUMBERS)
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_numbers_of_every_dtype(data_type: DataType, key: str) -> None:
    dtype = element_type(data_type).array
    values: list[Any] = [[1, 0, 7], [[1, 2], [3, 4]], [[[1]], [[2]]], [[], []]]
    for value in values:
        array = one(key, value, data_type)
        assert array.dtype == dtype
        assert array.tolist() == np.array(value).astype(dtype).tolist()
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        assert one(key, [int(bounds.min), int(bounds.max)], data_type).tolist() == [bounds.min, bounds.max]
        for beyond in (int(bounds.min) - 1, int(bounds.max) + 1, 1 << 70):
            text = problem({key: [0, beyond]}, x=spec(data_type))
            name = data_type.name.removeprefix("DT_").lower()
            assert f"JSON Value: {beyond} Type: Number is not of expected type: {name}" in text
    else:
        array = one(key, [0.5, 3, -1e300, float("nan"), 1 << 70], data_type).astype("f8")
        assert array[:2].tolist() == [0.5, 3] and np.isnan(array[3])
        assert array[2] == (-1e300 if data_type == DataType.DT_DOUBLE else -np.inf)
        assert array[4] == (np.inf if data_type == DataType.DT_HALF else 2.0**70)


def test_a_float_is_rounded_as_the_nearest() -> None:
    assert one("instances", [1435774380], DataType.DT_FLOAT)[0] == np.float32(1435774336)
    assert one("instances", [1435774380.0, 0.1], DataType.DT_FLOAT).tolist() == [
        1435774336.0,
        float(np.float32(0.1)),
    ]


def test_truths_and_strings() -> None:
    assert one("instances", [True, False], DataType.DT_BOOL).tolist() == [True, False]
    texts = one("inputs", [["a", {"b64": "aGVsbG8="}]], DataType.DT_STRING)
    assert texts.dtype == object and texts.tolist() == [[b"a", b"hello"]]
    assert one("instances", [{"b64": "aGVsbG8="}, "b"], DataType.DT_STRING).tolist() == [b"hello", b"b"]
    assert one("inputs", {"b64": "aGVsbG8="}, DataType.DT_STRING).tolist() == b"hello"
    assert one("inputs", 3).shape == ()


def test_rows_of_several_inputs_and_the_same_as_columns() -> None:
    inputs = {"i": spec(INT), "s": spec(DataType.DT_STRING), "f": spec(DataType.DT_FLOAT)}
    rows: list[dict[str, Any]] = [
        {"i": [[1, 2], [3, 4]], "s": "a", "f": [0.5]},
        {"f": [1], "i": [[5, 6], [7, 8]], "s": {"b64": "aGVsbG8="}},
    ]
    columns = {name: [row[name] for row in rows] for name in inputs} | {"more": "is left out"}
    for document in ({"instances": rows}, {"inputs": columns}):
        tensors = read(document, inputs).tensors
        assert tensors["i"][2].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
        assert tensors["s"][2].tolist() == [b"a", b"hello"]
        assert tensors["f"][2].tolist() == [[0.5], [1.0]]


def test_a_single_input_may_be_named() -> None:
    assert read({"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}, {"x": spec(INT)}).tensors["x"][1] == (2, 2)
    assert read({"inputs": {"x": [[[1]]]}}, {"x": spec(INT)}).tensors["x"][1] == (1, 1, 1)


def test_a_row_of_one_value_may_be_the_value() -> None:
    for key in ("instances", "inputs"):
        found = read({key: [1, 2, 3]}, {"x": spec(INT, (-1, 1))})
        assert found.narrow and found.tensors["x"][2].tolist() == [[1], [2], [3]]
        assert not read({key: [[1], [2]]}, {"x": spec(INT, (-1, 1))}).narrow
        for shape in ((-1,), (-1, 2), (-1, 1, 1), None):
            assert read({key: [1, 2]}, {"x": spec(INT, shape)}).tensors["x"][1] == (2,)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": [1], "inputs": [1]}, "Not formatted correctly expecting only one of 'inputs' or 'instances'"),
        ({"instances": 1}, "Expecting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": [[1, 2], [3, 4], [5, 6, 7]]},
         "Failed to process element: 2 of 'instances' list. "
         "Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 3"),
        ({"instances": [[1, 2], [3, 4], [[5, 6]]]}, "Expecting shape [2] but got: [1,2]"),
        ({"instances": [1, [1]]}, "Expecting shape [] but got: [1]"),
        ({"instances": [[[1, 2], [3]]]}, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ({"instances": [[1, [2]]]}, "Encountered list at unexpected level: 1 expected < 1"),
        ({"instances": [[[1], 2]]}, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ({"instances": [[1, 2], ["a", "b"]]}, 'JSON Value: "a" Type: String is not of expected type: int32'),
        ({"instances": [1.0]}, "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ({"instances": [True]}, "JSON Value: true Type: True is not of expected type: int32"),
        ({"instances": [None]}, "JSON Value: null Type: Null is not of expected type: int32"),
        ({"instances": [[{"x": 1}]]}, 'JSON Value: {"x": 1} Type: Object is not of expected type: int32'),
        ({"instances": [1, {"x": 1}]}, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [{"x": 1}, 1]}, "Expecting object but got list at item 1 of input list"),
        ({"instances": [{"x": 1}, {"y": 1}]},
         "Failed to process element: 1 key: y of 'instances' list. "
         "Error: INVALID_ARGUMENT: JSON object: does not have named input: y"),
        ({"instances": [{"x": 1}, {}]},
         "Failed to process element: 1 of 'instances' list. JSON object: {} keys must be equal to: x"),
        ({"inputs": {"y": 1}}, "Missing named input: x in 'inputs' object."),
        ({"inputs": [1, "a"]}, 'JSON Value: "a" Type: String is not of expected type: int32'),
        ({"inputs": [[1], [2, 3]]}, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ({"inputs": "a"}, 'JSON Value: "a" Type: String is not of expected type: int32'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_tensorflow_servings_words(document: dict[str, Any], text: str) -> None:
    assert text in problem(document, x=spec(INT))


def test_what_is_wrong_with_several_inputs() -> None:
    several = {"a": spec(INT), "b": spec(DataType.DT_STRING)}
    assert problem({"instances": [1]}, **several).startswith("instances is a plain list, but expecting list")
    assert problem({"instances": [{"b64": "YQ=="}]}, **several).startswith("instances is a plain list")
    assert problem({"inputs": [1]}, **several).startswith("inputs is a plain value/list, but expecting")
    rows = [{"a": [1, 2], "b": "x"}, {"a": [[3, 4]], "b": "y"}]
    assert problem({"instances": rows}, **several) == (
        "Failed to process element: 1 key: a of 'instances' list. "
        "Error: INVALID_ARGUMENT: Expecting shape [2] but got: [1,2]"
    )
    text = problem({"instances": [{"a": 1, "b": {"b64": "%"}}]}, **several)
    assert text.endswith("INVALID_ARGUMENT: Unable to base64 decode")
    assert "keys must be equal to: a,b" in problem({"instances": [{"a": 1}]}, **several)


@pytest.mark.parametrize("data_type", [DataType.DT_COMPLEX64, DataType.DT_QINT8, DataType.DT_FLOAT8_E5M2])
def test_dtypes_that_json_has_no_form_for(data_type: DataType) -> None:
    name = data_type.name.removeprefix("DT_").lower()
    with pytest.raises(Unimplemented, match=f"^Conversion of JSON Value: 1 to type: {name}$"):
        read({"inputs": [1]}, {"x": spec(data_type)})
    with pytest.raises(InvalidArgument, match="Error: UNIMPLEMENTED: Conversion of JSON Value: 1"):
        read({"instances": [1]}, {"x": spec(data_type)})


LEAVES = st.one_of(
    st.integers(-(2**65), 2**65), st.floats(), st.booleans(), st.text(max_size=3), st.none(),
    st.just({"b64": "aGVsbG8="}), st.just({"b64": "?"}), st.just({"z": 1}),
)  # fmt: skip
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=12)


@settings(max_examples=1500, deadline=None)
@given(
    value=st.lists(TREES, min_size=1, max_size=4),
    data_type=st.sampled_from([*NUMBERS, DataType.DT_BOOL, DataType.DT_STRING]),
    key=st.sampled_from(["instances", "inputs"]),
)
def test_any_json_is_read_whole_or_refused_with_a_reason(value: Any, data_type: DataType, key: str) -> None:
    try:
        found = read(json.loads(json.dumps({key: value})), {"x": spec(data_type)})
    except InvalidArgument as error:
        assert "are no tensor" not in error.message  # every mistake has words of its own
        return
    array = found.tensors["x"][2]
    plain = array.astype("f8") if data_type in NUMBERS[:4] else array
    nested = np.array(value, object)
    assert array.size == nested.size if data_type is not DataType.DT_STRING else True
    if data_type in NUMBERS[4:] or data_type is DataType.DT_BOOL:
        assert plain.tolist() == value or plain.size == 0
