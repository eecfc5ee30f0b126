from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.proto.kserve import InferTensor
from libs.proto.kserve_json import decode_request, encode_response
from libs.proto.kserve_tensor import DATATYPES, encode_raw
from libs.proto.wire import ProtoError


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def tensor(kind: str, shape: list[Any], data: Any, **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": kind, "shape": shape, "data": data, **more}


def decoded(*inputs: dict[str, Any]) -> np.ndarray[Any, Any]:
    return decode_request(body(*inputs)).inputs[0].array


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("BOOL", [True, False]),
        ("INT8", [-128, 127]),
        ("UINT8", [0, 255]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT64", [1, 2**64 - 1]),
        ("FP16", [0.5, -2]),
        ("BF16", [0.5, -2]),
        ("FP32", [0.1, 1]),
        ("FP64", [0.1, 1e300]),
    ],
)
def test_numbers_flat_and_nested(kind: str, values: list[Any]) -> None:
    flat = decoded(tensor(kind, [1, 2], values))
    nested = decoded(tensor(kind, [1, 2], [values]))
    assert flat.dtype == nested.dtype == DATATYPES[kind].array and flat.shape == nested.shape == (1, 2)
    assert flat.tolist() == nested.tolist() == [np.array(values, flat.dtype).tolist()]


def test_text() -> None:
    array = decoded(tensor("BYTES", [2, 1], [["字"], [""]]))
    assert array.tolist() == [["字".encode()], [b""]]
    assert decoded(tensor("BYTES", [0], [])).shape == (0,)
    assert decoded(tensor("FP32", [0, 3], [])).shape == (0, 3)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (tensor("FP32", [3], [1, 2]), "has 3 elements"),
        (tensor("FP32", [2, 1], [[1, 2]]), "its data has the shape [1, 2]"),
        (tensor("FP32", [2], [[1], [2, 3]]), "unequal lengths"),
        (tensor("FP32", [1], ["1"]), "not all of FP32"),
        (tensor("FP32", [1], [True]), "not all of FP32"),
        (tensor("FP32", [1], [None]), "not all of FP32"),
        (tensor("INT32", [1], [1.5]), "not all of INT32"),
        (tensor("INT8", [1], [128]), "128 does not fit INT8"),
        (tensor("UINT64", [1], [-1]), "-1 does not fit UINT64"),
        (tensor("UINT64", [2], [2**64, 1]), "not all of UINT64"),
        (tensor("BOOL", [1], [1]), "not all of BOOL"),
        (tensor("BYTES", [1], [1]), "not a string"),
        (tensor("BYTES", [1], ["\ud800"]), "UTF-8"),
        (tensor("FP8", [1], [1]), "unknown datatype"),
        (tensor("FP32", [-1], [1]), "shape"),
        (tensor("FP32", [True], [1]), "shape"),
        (tensor("FP32", [1.0], [1]), "shape"),
        ({"name": "x", "datatype": "FP32", "shape": [1]}, "it has no data"),
        ({"datatype": "FP32"}, "name is missing"),
        ({"name": 3}, "name must be a string"),
        (tensor("FP32", [1], [1], parameters=[]), "parameters"),
        (tensor("FP32", [1], [1], parameters={"a": {}}), "parameters"),
        (tensor("FP32", [1], [1], parameters={"binary_data_size": 4}), "0 bytes are left"),
        (tensor("FP32", [1], [1], parameters={"binary_data_size": True}), "binary_data_size"),
        (tensor("FP32", [2**40, 2**40], []), "has"),
    ],
)
def test_what_does_not_fit(item: dict[str, Any], problem: str) -> None:
    with pytest.raises(ProtoError) as caught:
        decode_request(body(item))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        (b'{"inputs": {}}', "inputs: expected a list"),
        (b'{"outputs": [{}]}', "name is missing"),
        (b'{"id": 3}', "id must be a string"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_what_is_no_request(data: bytes, problem: str) -> None:
    with pytest.raises(ProtoError, match=problem.replace("[", "\\[")):
        decode_request(data)


def test_the_rest_of_a_request() -> None:
    request = decode_request(
        body(
            tensor("FP32", [1], [1], parameters={"a": 1}),
            id="7",
            parameters={"b": "c", "binary_data_output": True},
            outputs=[{"name": "y", "parameters": {"binary_data": False}}, {"name": "z"}],
        )
    )
    assert (request.id, request.raw) == ("7", True)
    assert request.parameters == {"b": "c", "binary_data_output": True}
    assert request.inputs[0].parameters == {"a": 1}
    assert [(o.name, o.parameters) for o in request.outputs] == [("y", {"binary_data": False}), ("z", {})]


def test_binary_data_of_some_inputs() -> None:
    first, third = np.array([[1.5, 2]], "<f4"), np.array([b"ab", b""], object)
    raw = [bytes(encode_raw(first, "FP32")), bytes(encode_raw(third, "BYTES"))]
    items = [
        {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": len(raw[0])}},
        tensor("INT32", [1], [7]),
        {"name": "c", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw[1])}},
    ]
    head = body(*items)
    request = decode_request(head + b"".join(raw), len(head))
    assert [t.array.tolist() for t in request.inputs] == [[[1.5, 2.0]], [7], [b"ab", b""]]
    assert all(t.parameters == {} for t in request.inputs)
    for length, tail in ((len(head), raw[0]), (len(head), b"".join(raw) + b"x"), (len(head) + 99, b"")):
        with pytest.raises(ProtoError):
            decode_request(head + tail, length)


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_any_bytes_are_read_or_refused(data: bytes, length: int | None) -> None:
    try:
        decode_request(data, length)
    except ProtoError as error:
        assert str(error)


def test_answers() -> None:
    outputs = [
        InferTensor.of("a", np.array([[1.5, 2]], np.float32)),
        InferTensor.of("b", np.array(["x", b"\xe5\xad\x97"], object)),
    ]
    message, head = encode_response("m", outputs, [False, False], model_version="3", id="i")
    assert head is None and json.loads(message) == {
        "model_name": "m",
        "model_version": "3",
        "id": "i",
        "outputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]},
            {"name": "b", "datatype": "BYTES", "shape": [2], "data": ["x", "字"]},
        ],
    }
    message, head = encode_response("m", outputs, [True, False])
    assert head is not None and message[head:] == np.array([1.5, 2], "<f4").tobytes()
    assert json.loads(message[:head])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    with pytest.raises(ProtoError, match="output 'c'.*binary_data"):
        encode_response("m", [InferTensor.of("c", np.array([b"\xff"], object))], [False])
