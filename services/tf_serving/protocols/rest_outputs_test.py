from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.proto.dtypes import DataType, element_type
from libs.serving.errors import InvalidArgument
from services.tf_serving.model.methods import Classified
from services.tf_serving.protocols.rest_outputs import by_column, by_row, classification, regression
from services.tf_serving.testing_arrays import arrays

FLOAT, DOUBLE, STRING = DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_STRING
SERVED = [
    *(FLOAT, DOUBLE, DataType.DT_HALF, DataType.DT_BFLOAT16, DataType.DT_BOOL),
    *(DataType.DT_INT8, DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64),
    *(DataType.DT_UINT8, DataType.DT_UINT16, DataType.DT_UINT32, DataType.DT_UINT64),
]


def texts(*values: bytes) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def floats(values: list[float], data_type: DataType = FLOAT) -> str:
    array = np.array(values).astype(element_type(data_type).array)
    return by_column({"y": (data_type, array)}).decode().removeprefix('{"outputs": ').removesuffix("}")


def test_floats_have_the_digits_that_tensorflow_serving_writes() -> None:
    assert floats([9000000, 999999, 0.5, 0.0003, 0.00003, 555557.5]) == (
        "[9e+06, 999999.0, 0.5, 0.0003, 3e-05, 555557.5]"
    )
    assert floats([0.2, 1 / 3, 16777217, -0.0, 1e-45]) == ("[0.2, 0.333333343, 16777216.0, -0.0, 1.4013e-45]")
    assert floats([0.2, 1 / 3, 2**53 + 1], DOUBLE) == "[0.2, 0.33333333333333331, 9007199254740992.0]"
    assert floats([np.nan, np.inf, 3, -np.inf]) == "[NaN, Infinity, 3.0, -Infinity]"
    assert floats([0.1, 65504, 1 / 3], DataType.DT_HALF) == "[0.0999756, 65504.0, 0.333252]"
    assert floats([0.1, 3.0], DataType.DT_BFLOAT16) == "[0.100098, 3.0]"


@settings(max_examples=600, deadline=None)
@given(made=arrays(SERVED))
def test_every_value_is_read_again_as_itself(made: tuple[DataType, np.ndarray[Any, Any]]) -> None:
    data_type, array = made
    for written, key in ((by_column, "outputs"), (by_row, "predictions")):
        if not array.shape and key == "predictions":
            continue
        nested = json.loads(written({"y": (data_type, array)}))[key]
        floating = array.dtype.kind in "fV"
        again = np.array(nested, "f8" if floating else array.dtype).astype(array.dtype)
        if not array.size:
            assert len(nested) == array.shape[0]
        elif floating:
            np.testing.assert_array_equal(again.astype("f8"), array.astype("f8"))
        else:
            np.testing.assert_array_equal(again, array)


def test_strings_and_those_that_are_bytes() -> None:
    array = texts(b'a"\\\n\x01/', "é€😀".encode(), b"\xff\xfe", b"")
    assert by_column({"y": (STRING, array)}) == (
        '{"outputs": ["a\\"\\\\\\n\\u0001/", "é€😀", "'.encode() + b'\xff\xfe", ""]}'
    )
    assert json.loads(by_row({"y_bytes": (STRING, array.reshape(2, 2))})) == {
        "predictions": [[{"b64": "YSJcCgEv"}, {"b64": "w6nigqzwn5iA"}], [{"b64": "//4="}, {"b64": ""}]]
    }
    # The suffix is one of strings.
    assert by_column({"y_bytes": (DataType.DT_INT8, np.array([1], "i1"))}) == b'{"outputs": [1]}'


def test_several_outputs_are_objects() -> None:
    outputs = {
        "d": (int(DOUBLE), np.array([8.0, 9.0])),
        "i": (int(DataType.DT_INT32), np.arange(12, dtype="i4").reshape(2, 3, 2)),
        'q"': (int(STRING), texts(b"foo", b"bar")),
    }
    assert by_row(outputs) == (
        b'{"predictions": [{"d": 8.0, "i": [[0, 1], [2, 3], [4, 5]], "q\\"": "foo"}, '
        b'{"d": 9.0, "i": [[6, 7], [8, 9], [10, 11]], "q\\"": "bar"}]}'
    )
    assert by_column(outputs) == (
        b'{"outputs": {"d": [8.0, 9.0], "i": [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]], '
        b'"q\\"": ["foo", "bar"]}}'
    )


def test_nothing_and_single_values() -> None:
    empty = (int(FLOAT), np.empty((0, 3, 4), "f4"))
    assert (
        by_row({"y": empty})
        == by_row({"y": empty, "z": (int(FLOAT), np.empty(0, "f4"))})
        == (b'{"predictions": []}')
    )
    assert by_column({"y": (int(FLOAT), np.empty((2, 0), "f4"))}) == b'{"outputs": [[], []]}'
    assert by_column({"y": (int(FLOAT), np.array(3, "f4"))}) == b'{"outputs": 3.0}'


def test_what_cannot_be_written() -> None:
    one, two = (int(FLOAT), np.zeros(1, "f4")), (int(FLOAT), np.zeros((2, 1), "f4"))
    with pytest.raises(InvalidArgument, match="^Tensor name: b has inconsistent batch size: 2 expecting: 1$"):
        by_row({"a": one, "b": two})
    with pytest.raises(InvalidArgument, match="^Tensor name: a has no shape information $"):
        by_row({"a": (int(FLOAT), np.zeros((), "f4"))})
    for written in (by_row, by_column):
        with pytest.raises(InvalidArgument, match="^Failed to write JSON value for tensor type: complex64$"):
            written({"a": (int(DataType.DT_COMPLEX64), np.zeros(1, "c8"))})


def test_classifications_and_regressions() -> None:
    scores = np.array([[0.5, 0.25], [1, np.nan]], "f4")
    labels = texts(b"a", b"b", b"", b"d").reshape(2, 2)
    assert classification(Classified(labels, scores)) == (
        b'{"results": [[["a", 0.5], ["b", 0.25]], [["", 1.0], ["d", NaN]]]}'
    )
    assert classification(Classified(None, scores[:, :1])) == b'{"results": [[["", 0.5]], [["", 1.0]]]}'
    assert classification(Classified(labels[:1], None)) == b'{"results": [[["a", 0.0], ["b", 0.0]]]}'
    assert regression(np.array([1.5, 2], "f4")) == b'{"results": [1.5, 2.0]}'


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=9))
def test_digits_are_as_few_as_they_may_be(values: list[float]) -> None:
    for text, value in zip(json.loads(floats(values), parse_float=str), values, strict=True):
        short = f"{value:g}"
        if isinstance(text, str) and np.float32(short) == np.float32(value):
            assert text in (short, f"{short}.0")
