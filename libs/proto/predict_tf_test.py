"""The PredictRequest codec against tensorflow-serving-api's classes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import predict_pb2

from libs.proto.dtypes import DataType
from libs.proto.predict import (
    ModelSpec,
    decode_predict_request,
    decode_predict_response,
    encode_predict_request,
    encode_predict_response,
)
from libs.proto.testing import assert_same, broken, scrambled
from libs.proto.wire import ProtoError

PROPERTY = settings(max_examples=200, deadline=None)
SPECS = [
    ModelSpec("textcnn-69"),
    ModelSpec("m", 3, "", "prediction"),
    ModelSpec("m", 0),
    ModelSpec("模型", None, "stable", "s"),
    ModelSpec(),
]
ARRAYS = {
    "sentence": np.array([["你", "好"], ["a", ""]]).astype(object),
    "x": np.arange(6, dtype=np.float32).reshape(2, 3),
    "n": np.array(7),
    "empty": np.zeros((0, 3), np.int64),
}
for _index, _text in np.ndenumerate(ARRAYS["sentence"]):
    ARRAYS["sentence"][_index] = _text.encode()


def official_spec(spec: Any) -> ModelSpec:
    which = spec.WhichOneof("version_choice")
    version = spec.version.value if which == "version" else None
    return ModelSpec(spec.name, version, spec.version_label, spec.signature_name)


def check_request(data: bytes) -> None:
    """Assert that our codec reads what the official class reads, or that both cannot make arrays of it."""
    official = predict_pb2.PredictRequest.FromString(data)
    try:
        arrays = {key: tf.make_ndarray(official.inputs[key]) for key in official.inputs}
    except (TypeError, ValueError):
        with pytest.raises(ProtoError):
            decode_predict_request(data)
        return
    ours = decode_predict_request(data)
    assert ours.model_spec == official_spec(official.model_spec)
    assert ours.output_filter == list(official.output_filter)
    assert ours.inputs.keys() == arrays.keys()
    for key, array in arrays.items():
        assert_same(ours.inputs[key], array)
        assert ours.data_types[key] == official.inputs[key].dtype


def random_request(rng: random.Random) -> bytes:
    chosen = {key: array for key, array in ARRAYS.items() if rng.random() < 0.6}
    return encode_predict_request(
        rng.choice(SPECS), chosen, output_filter=["score", "输出"][: rng.randrange(3)]
    )


@PROPERTY
@given(st.randoms(use_true_random=False))
def test_requests_both_ways(rng: random.Random) -> None:
    data = random_request(rng)
    check_request(data)
    check_request(predict_pb2.PredictRequest.FromString(data).SerializeToString())


@PROPERTY
@given(st.randoms(use_true_random=False))
def test_unusual_writings_read_the_same(rng: random.Random) -> None:
    data = scrambled(rng, random_request(rng), depth=2)
    try:
        predict_pb2.PredictRequest.FromString(data)
    except Exception:  # not UTF-8 any more
        return
    check_request(data)


@settings(max_examples=500, deadline=None)
@given(st.randoms(use_true_random=False))
def test_malformed_bytes_raise_proto_error_only(rng: random.Random) -> None:
    data = broken(rng, random_request(rng))
    for decode in (decode_predict_request, decode_predict_response):
        try:
            decode(data)
        except ProtoError as error:
            assert str(error)


@pytest.mark.parametrize("spec", SPECS)
def test_responses_both_ways(spec: ModelSpec) -> None:
    data = encode_predict_response(spec, ARRAYS, data_types={"x": DataType.DT_BFLOAT16})
    official = predict_pb2.PredictResponse.FromString(data)
    assert official_spec(official.model_spec) == spec
    for wire in (data, official.SerializeToString()):
        ours = decode_predict_response(wire)
        assert ours.model_spec == spec
        assert ours.data_types["x"] is DataType.DT_BFLOAT16
        for key, array in ARRAYS.items():
            assert_same(tf.make_ndarray(official.outputs[key]), ours.outputs[key])
            assert ours.outputs[key].shape == array.shape


def test_version_choices_replace_each_other() -> None:
    both = b"\x0a\x0a" + b"\x12\x02\x08\x03" + b"\x22\x02ab" + b"\x0a\x00"
    for data in (both, b"\x0a\x06\x22\x02ab\x12\x00", b"\x0a\x04\x12\x02\x08\x03\x0a\x02\x12\x00"):
        check_request(data)
    with pytest.raises(ProtoError, match="not both"):
        encode_predict_request(ModelSpec("m", 1, "stable"), {})


def test_the_last_entry_of_a_key_counts() -> None:
    broken_tensor = b"\x12\x07\x0a\x01x\x12\x02\x08\x01"
    check_request(broken_tensor + encode_predict_request(ModelSpec("m"), {"x": ARRAYS["x"]}))


def test_errors_name_the_tensor() -> None:
    request = predict_pb2.PredictRequest()
    request.inputs["sentence"].dtype = 1
    request.inputs["sentence"].tensor_shape.dim.add().size = 2
    request.inputs["sentence"].tensor_content = b"1234567"
    with pytest.raises(ProtoError, match=r"input 'sentence': the tensor's shape \[2\] has 2 elements"):
        decode_predict_request(request.SerializeToString())
    with pytest.raises(ProtoError, match="tensor 'x': no tensor dtype"):
        encode_predict_request(ModelSpec("m"), {"x": np.array(["2020-01-01"], "datetime64[D]")})
