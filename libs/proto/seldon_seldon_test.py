"""The Seldon codec against seldon-core's own classes and helpers, in seldon-core's environment."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from seldon_core import utils
from seldon_core.proto import prediction_pb2

from libs.proto.seldon import DataKind, decode_message, encode_message, encode_meta
from libs.proto.testing import assert_same, scrambled
from libs.proto.testing_seldon import check_decoding, random_message

# The official classes are protobuf's pure Python ones here, which are slow.
PROPERTY = settings(max_examples=150, deadline=None)
FINITE = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6),
    elements=st.floats(allow_nan=False, allow_infinity=False),
)


@PROPERTY
@given(st.randoms(use_true_random=False))
def test_decodes_what_the_official_class_reads(rng: random.Random) -> None:
    message = random_message(rng, prediction_pb2.SeldonMessage)
    check_decoding(prediction_pb2.SeldonMessage, message.SerializeToString())


@PROPERTY
@given(st.randoms(use_true_random=False))
def test_decodes_unusual_writings_as_the_official_class_does(rng: random.Random) -> None:
    data = scrambled(rng, random_message(rng, prediction_pb2.SeldonMessage).SerializeToString(), unknown=2)
    try:
        prediction_pb2.SeldonMessage.FromString(data)
    except Exception:
        return
    check_decoding(prediction_pb2.SeldonMessage, data)


@PROPERTY
@given(FINITE, st.sampled_from(["tensor", "ndarray"]), st.lists(st.text(max_size=4), max_size=3))
def test_reads_what_seldon_core_writes(array: Any, kind: str, names: list[str]) -> None:
    data = prediction_pb2.SeldonMessage(data=utils.array_to_grpc_datadef(kind, array, names))
    ours = decode_message(data.SerializeToString())
    assert ours.kind is DataKind(kind)
    assert ours.names == names
    assert_same(ours.payload, utils.get_data_from_proto(data))


@PROPERTY
@given(
    FINITE, st.sampled_from([DataKind.TENSOR, DataKind.NDARRAY]), st.lists(st.text(max_size=4), max_size=3)
)
def test_seldon_core_reads_what_is_written(array: Any, kind: DataKind, names: list[str]) -> None:
    data = encode_message(kind, array, names=names, meta=encode_meta(puid="p", tags={"taskId": 39}))
    message = prediction_pb2.SeldonMessage.FromString(data)
    assert_same(utils.get_data_from_proto(message), array)
    assert list(message.data.names) == names
    assert utils.get_meta_from_proto(message) == {"puid": "p", "tags": {"taskId": 39.0}}


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (DataKind.BIN, b"\x00\xffpng"),
        (DataKind.STR, "文本"),
        (DataKind.JSON, {"a": [1.0, None, True, {"b": "c"}], "d": "e"}),
        (DataKind.JSON, [1.5, "x"]),
        (DataKind.NDARRAY, np.array([["a", "b"], ["c", "d"]])),
    ],
)
def test_other_kinds_both_ways(kind: DataKind, payload: Any) -> None:
    message = prediction_pb2.SeldonMessage.FromString(encode_message(kind, payload))
    assert_same(utils.get_data_from_proto(message), payload)
    ours = decode_message(message.SerializeToString())
    assert ours.kind is kind
    assert_same(ours.payload, payload)
