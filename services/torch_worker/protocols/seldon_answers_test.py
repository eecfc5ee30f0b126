from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from libs.proto import messages
from libs.proto.seldon import DataKind, SeldonRequest, decode_message
from libs.serving.errors import Internal
from services.torch_worker.model.answer import Answer
from services.torch_worker.protocols.seldon_answers import (
    default_names,
    echoed_meta,
    encode_answer,
    further_meta,
    respond,
)

ARRAYS = [DataKind.TENSOR, DataKind.NDARRAY, DataKind.TFTENSOR]
OTHERS = [DataKind.BIN, DataKind.STR, DataKind.JSON]


def asked(kind: DataKind, meta: bytes = b"") -> SeldonRequest:
    return SeldonRequest(kind, None, [], "", {}, meta)


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("result", [np.ones((1, 2), np.float32), [[1.0, 1.0]], torch.ones(1, 2), ((1, 1),)])
def test_numbers_are_answered_in_the_array_kind_asked(kind: DataKind, result: Any) -> None:
    answered, payload = respond(kind, result)
    assert answered is kind
    assert np.asarray(payload).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("kind", OTHERS)
def test_numbers_to_other_kinds_become_a_tensor(kind: DataKind) -> None:
    assert respond(kind, [[7, 0.5]])[0] is DataKind.TENSOR


@pytest.mark.parametrize("kind", ARRAYS + OTHERS)
def test_the_rest_does_not_depend_on_the_kind_asked(kind: DataKind) -> None:
    assert respond(kind, [["cat", "dog"]])[0] is DataKind.NDARRAY
    assert respond(kind, [True, False])[0] is DataKind.NDARRAY
    assert respond(kind, "text") == (DataKind.STR, "text")
    assert respond(kind, bytearray(b"x")) == (DataKind.BIN, b"x")
    assert respond(kind, {"a": torch.ones(2), "b": np.int64(3)}) == (DataKind.JSON, {"a": [1.0, 1.0], "b": 3})


def test_two_heads_become_one_array() -> None:
    kind, payload = respond(DataKind.TENSOR, [torch.zeros(3, 1), torch.ones(3, 1)])
    assert kind is DataKind.TENSOR and payload.shape == (2, 3, 1)


def test_a_number_is_an_array_without_dimensions() -> None:
    for number in (3, 2.5, np.float32(1), torch.tensor(4.0)):
        kind, payload = respond(DataKind.BIN, number)
        assert kind is DataKind.TENSOR and payload.shape == ()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "the result is of type NoneType; the model, or its postprocess, must return"),
        (object(), "the result is of type object"),
        ([[1.0], [1.0, 2.0]], "parts have different lengths"),
        ([torch.zeros(1), torch.zeros(2)], "parts have different lengths"),
        (np.array([1j]), "complex"),
    ],
)
def test_results_that_no_response_can_carry(result: Any, message: str) -> None:
    with pytest.raises(Internal, match=message):
        respond(DataKind.TENSOR, result)


def test_values_that_json_cannot_carry() -> None:
    with pytest.raises(Internal, match="cannot be encoded"):
        encode_answer(asked(DataKind.JSON), {"a": object()})
    with pytest.raises(Internal, match="cannot be encoded"):
        encode_answer(asked(DataKind.JSON), {1: "number as key"})


def test_column_names() -> None:
    assert default_names(3) == ("t:0", "t:1", "t:2")
    two = decode_message(encode_answer(asked(DataKind.TENSOR), np.ones((4, 2))))
    assert two.names == ["t:0", "t:1"]
    named = decode_message(encode_answer(asked(DataKind.BIN), [[7, 0.9]], ("class", "probability")))
    assert named.names == ["class", "probability"] and named.payload.tolist() == [[7.0, 0.9]]
    assert decode_message(encode_answer(asked(DataKind.TENSOR), np.ones(4))).names == []
    assert decode_message(encode_answer(asked(DataKind.TENSOR), "s", ("x",))).kind is DataKind.STR


@pytest.mark.parametrize("puid", ["p1", "p" * 300])
def test_meta_is_echoed_without_routing(puid: str) -> None:
    meta = messages.Meta(puid=puid)
    meta.tags["taskId"].number_value = 39
    meta.requestPath["model"] = "image:1"
    meta.metrics.add(key="k", value=1.5)
    expected = meta.SerializeToString(deterministic=True)
    meta.routing["router"] = 1
    got = messages.SeldonMessage.FromString(
        encode_answer(asked(DataKind.STR, meta.SerializeToString()), "answer")
    )
    assert got.strData == "answer"
    assert got.meta.SerializeToString(deterministic=True) == expected


def test_no_meta_no_echo() -> None:
    assert echoed_meta(b"") == b""
    assert not messages.SeldonMessage.FromString(encode_answer(asked(DataKind.STR), "x")).HasField("meta")


def test_an_answers_own_tags_metrics_and_names() -> None:
    meta = messages.Meta(puid="p")
    meta.tags["taskId"].number_value = 39
    meta.routing["router"] = 1
    meta.requestPath["m"] = "image"
    meta.metrics.add(key="theirs", value=1)
    answer = Answer(
        np.ones((1, 2)),
        {"taskId": 39, "mine": [True, None, "x"]},
        [{"key": "k", "type": "TIMER", "value": 2.5, "tags": {"a": "b"}}, {"key": "n", "value": 1}],
        ("u", "v"),
    )
    got = messages.SeldonMessage.FromString(
        encode_answer(asked(DataKind.NDARRAY, meta.SerializeToString()), answer, ("x", "y"))
    )
    assert list(got.data.names) == ["u", "v"] and len(got.data.ndarray.values) == 1
    assert got.meta.puid == "p" and got.meta.tags["taskId"].number_value == 39
    assert [v.bool_value for v in got.meta.tags["mine"].list_value.values][:1] == [True]
    assert dict(got.meta.requestPath) == {"m": "image"} and not got.meta.routing
    assert [(m.key, m.type, m.value) for m in got.meta.metrics] == [
        ("theirs", 0, 1),
        ("k", 2, 2.5),
        ("n", 0, 1),
    ]
    assert dict(got.meta.metrics[1].tags) == {"a": "b", "method": "predict"}


def test_an_answer_without_tags_keeps_the_requests() -> None:
    meta = messages.Meta(puid="p")
    meta.tags["taskId"].number_value = 39
    raw = meta.SerializeToString()
    got = messages.SeldonMessage.FromString(encode_answer(asked(DataKind.STR, raw), Answer("x")))
    assert got.strData == "x" and got.meta == meta


@pytest.mark.parametrize(
    "answer",
    [
        Answer("x", {"a": object()}),
        Answer("x", None, [{"key": "k"}]),
        Answer("x", None, [{"key": "k", "value": 1, "type": "SUM"}]),
        Answer("x", None, [{"key": "k", "value": "much"}]),
    ],
)
def test_tags_and_metrics_that_no_response_can_carry(answer: Answer) -> None:
    with pytest.raises(Internal, match="cannot be sent"):
        encode_answer(asked(DataKind.STR), answer)


def test_what_hooks_get_of_meta_besides_puid_and_tags() -> None:
    meta = messages.Meta(puid="p")
    meta.tags["a"].number_value = 1
    assert further_meta(meta.SerializeToString()) == {}
    meta.routing["router"] = -1
    meta.requestPath["m"] = "image"
    meta.metrics.add(key="k", value=0.5, type=1, tags={"a": "b"})
    meta.metrics.add(key="n", value=1)
    assert further_meta(meta.SerializeToString()) == {
        "routing": {"router": -1},
        "requestPath": {"m": "image"},
        "metrics": [
            {"key": "k", "value": 0.5, "type": "GAUGE", "tags": {"a": "b"}},
            {"key": "n", "value": 1.0},
        ],
    }
