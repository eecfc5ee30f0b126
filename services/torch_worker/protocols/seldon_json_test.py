from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from libs.proto.seldon import DataKind
from libs.serving.errors import Internal, InvalidArgument
from services.torch_worker.model.answer import Answer
from services.torch_worker.protocols.seldon_json import JsonRequest, decode_json, encode_json

META = {"puid": "p", "tags": {"a": 1}, "routing": {"r": 1}, "metrics": [{"key": "theirs", "value": 1}]}


def asked(kind: DataKind | None, **meta: Any) -> JsonRequest:
    return JsonRequest(kind, None, [], meta)


def answered(request: JsonRequest, result: Any, names: tuple[str, ...] | None = None) -> Any:
    return json.loads(encode_json(request, result, names))


@pytest.mark.parametrize(
    ("kind", "result", "data"),
    [
        (
            DataKind.TENSOR,
            [[1, 2.5]],
            {"names": ["t:0", "t:1"], "tensor": {"shape": [1, 2], "values": [1, 2.5]}},
        ),
        (DataKind.NDARRAY, [[1, 2]], {"names": ["t:0", "t:1"], "ndarray": [[1, 2]]}),
        (DataKind.STR, [1], {"names": [], "tensor": {"shape": [1], "values": [1]}}),
        (DataKind.TENSOR, [["a"]], {"names": ["t:0"], "ndarray": [["a"]]}),
        (DataKind.NDARRAY, 3, {"names": [], "ndarray": [3]}),
        (None, [1], {"names": [], "tensor": {"shape": [1], "values": [1]}}),
    ],
)
def test_arrays(kind: DataKind | None, result: Any, data: Any) -> None:
    assert answered(asked(kind), result) == {"data": data, "meta": {}}


def test_meta_is_the_requests_without_routing() -> None:
    expected = {key: value for key, value in META.items() if key != "routing"}
    assert answered(asked(DataKind.STR, **META), "x") == {"strData": "x", "meta": expected}


def test_an_answers_own_tags_metrics_and_names() -> None:
    own = [{"key": "k", "type": "GAUGE", "value": 2}]
    answer = Answer(np.ones((1, 1)), {"a": 1, "b": 2}, own, ("u",))
    got = answered(asked(DataKind.NDARRAY, **META), answer, ("x",))
    assert got["data"] == {"names": ["u"], "ndarray": [[1.0]]}
    assert got["meta"] == {"puid": "p", "tags": {"a": 1, "b": 2}, "metrics": [*META["metrics"], *own]}  # type: ignore[misc]


def test_results_that_no_answer_can_carry() -> None:
    for result in (None, {"a": object()}, {1: {2}}):
        with pytest.raises(Internal):
            encode_json(asked(DataKind.STR), result, None)


def test_kinds_have_an_order() -> None:
    assert decode_json('{"strData": "x", "jsonData": null}').kind is DataKind.JSON
    assert decode_json('{"data": {}, "jsonData": 1}').payload.shape == (0,)
    both = decode_json('{"data": {"ndarray": [1], "tensor": {"values": [2]}}}')
    assert both.kind is DataKind.TENSOR and both.payload.tolist() == [2]


@pytest.mark.parametrize(
    "text", ["1", "{}", '{"meta": 1, "strData": ""}', '{"data": {"names": 1}}', "[" * 9999]
)
def test_what_is_no_message(text: str) -> None:
    with pytest.raises(InvalidArgument):
        decode_json(text)
