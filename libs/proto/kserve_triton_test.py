"""The KServe V2 codec against tritonclient's own classes and client helpers, and against our stubs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from libs.proto import messages
from libs.proto.kserve import (
    InferTensor,
    RequestedOutput,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from libs.proto.kserve_tensor import DATATYPES
from libs.proto.testing import assert_same, broken, scrambled
from libs.proto.testing_kserve import PARAMETERS, check_decoding, random_tensors
from libs.proto.wire import ProtoError

PROPERTY = settings(max_examples=250, deadline=None)
CLASSES = pytest.mark.parametrize("module", [service_pb2, messages], ids=["tritonclient", "ours"])


def encoded(rng: random.Random, raw: bool) -> tuple[bytes, bytes]:
    """A request and a response with random tensors."""
    tensors = random_tensors(rng, typed=not raw)
    wanted = [RequestedOutput("y", PARAMETERS[1]), RequestedOutput("z")][: rng.randrange(3)]
    names = {"model_version": "7", "id": "请求-1"}
    return (
        encode_request("tis-5", tensors, outputs=wanted, parameters=rng.choice(PARAMETERS), raw=raw, **names),
        encode_response("tis-5", tensors, parameters=rng.choice(PARAMETERS), raw=raw, **names),
    )


@CLASSES
@PROPERTY
@given(st.randoms(use_true_random=False), st.booleans())
def test_what_is_written_reads_the_same_by_generated_classes(
    module: Any, rng: random.Random, raw: bool
) -> None:
    request, response = encoded(rng, raw)
    check_decoding(module.ModelInferRequest.FromString(request), request)
    check_decoding(module.ModelInferResponse.FromString(response), response)
    # and what the generated classes write of it
    again = module.ModelInferRequest.FromString(request).SerializeToString()
    check_decoding(module.ModelInferRequest.FromString(again), again)


@PROPERTY
@given(st.randoms(use_true_random=False), st.booleans())
def test_round_trip(rng: random.Random, raw: bool) -> None:
    tensors = random_tensors(rng, typed=not raw)
    request = decode_request(encode_request("m", tensors, raw=raw))
    response = decode_response(encode_response("m", tensors, raw=raw))
    for decoded in (request.inputs, response.outputs):
        assert len(decoded) == len(tensors)
        for ours, tensor in zip(decoded, tensors, strict=True):
            assert (ours.name, ours.datatype, dict(ours.parameters)) == (
                tensor.name,
                tensor.datatype,
                dict(tensor.parameters),
            )
            assert_same(ours.array, tensor.array)
    assert request.raw == response.raw == (raw and bool(tensors))


@PROPERTY
@given(st.randoms(use_true_random=False), st.booleans())
def test_unusual_writings_read_the_same(rng: random.Random, raw: bool) -> None:
    for data, cls in zip(
        encoded(rng, raw), (service_pb2.ModelInferRequest, service_pb2.ModelInferResponse), strict=True
    ):
        arranged = scrambled(rng, data)
        try:
            message = cls.FromString(arranged)
        except Exception:  # not UTF-8 any more
            continue
        check_decoding(message, arranged)


@settings(max_examples=600, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_malformed_bytes_raise_proto_error_only(rng: random.Random, raw: bool) -> None:
    request, response = encoded(rng, raw)
    for decode, data in ((decode_request, request), (decode_response, response)):
        try:
            decode(broken(rng, data))
        except ProtoError as error:
            assert str(error)


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BF16"}))
def test_requests_of_tritonclient_are_read(datatype: str) -> None:
    array = np.array([[0, 1], [2, 3]]).astype(DATATYPES[datatype].array)
    if datatype == "BYTES":
        array = np.array([[b"", b"a"], ["一".encode(), b"\x00" * 300]], object)
    official = triton.InferInput("x", list(array.shape), np_to_triton_dtype(array.dtype))
    official.set_data_from_numpy(array)
    request = triton._utils._get_inference_request(
        model_name="tis-5",
        inputs=[official],
        model_version="1",
        request_id="r",
        outputs=[triton.InferRequestedOutput("y")],
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=3,
        timeout=None,
        parameters=None,
    )
    ours = decode_request(request.SerializeToString())
    assert (ours.model_name, ours.model_version, ours.id, ours.raw) == ("tis-5", "1", "r", True)
    assert ours.parameters["priority"] == 3
    assert [output.name for output in ours.outputs] == ["y"]
    assert ours.inputs[0].datatype == datatype
    assert_same(ours.inputs[0].array, array)


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BF16"}))
def test_tritonclient_reads_responses(datatype: str) -> None:
    array = np.array([[0, 1], [2, 3]]).astype(DATATYPES[datatype].array)
    if datatype == "BYTES":
        array = np.array([[b"", b"a"], ["一".encode(), b"\x00" * 300]], object)
    data = encode_response("m", [InferTensor.of("y", array)])
    result = triton.InferResult(service_pb2.ModelInferResponse.FromString(data))
    assert_same(np.asarray(result.as_numpy("y")), array)


def test_raw_contents_decode_to_views() -> None:
    data = encode_request("m", [InferTensor.of("x", np.arange(12, dtype=np.float32).reshape(3, 4))])
    array = decode_request(data).inputs[0].array
    assert not array.flags.writeable
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.arange(3, dtype=">i4"), "INT32"),
        (np.arange(6.0).reshape(2, 3).T, "FP64"),
        (np.float16(1.5), "FP16"),
        ([True, False], "BOOL"),
        (["a", "一"], "BYTES"),
        (np.array([b"a"]), "BYTES"),
    ],
)
def test_datatypes_are_found(array: Any, datatype: str) -> None:
    tensor = InferTensor.of("x", array)
    assert tensor.datatype == datatype
    decoded = decode_request(encode_request("m", [tensor])).inputs[0].array
    expected = np.asarray(array)
    if datatype == "BYTES":
        assert decoded.tolist() == [
            item if isinstance(item, bytes) else item.encode() for item in expected.tolist()
        ]
    else:
        assert decoded.tolist() == expected.tolist()
    assert decoded.shape == expected.shape


def request_with(shape: list[int], datatype: str, raw: list[bytes], **contents: Any) -> bytes:
    request = messages.ModelInferRequest(model_name="m", raw_input_contents=raw)
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    if contents:
        tensor.contents.CopyFrom(messages.InferTensorContents(**contents))
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            request_with([2], "FP32", [bytes(7)]),
            r"input 'x': its shape \[2\] has 2 elements, but there are 7 bytes",
        ),
        (request_with([2**62, 8], "FP32", [bytes(8)]), "8 bytes"),
        (request_with([2**60], "BYTES", [bytes(8)]), "8 bytes; BYTES takes at least 4"),
        (request_with([2], "BYTES", [b"\x01\0\0\0a\xff\xff\xff\xff"]), "element 1 of 2 is cut off"),
        (request_with([1], "BYTES", [bytes(8)]), "4 bytes are left"),
        (request_with([0, 2**62, 2**62], "FP32", [b""]), "beyond what numpy can hold"),
        (request_with([-1], "FP32", [bytes(4)]), r"shape \[-1\] has a negative dimension"),
        (request_with([1], "FP33", [bytes(4)]), "unknown datatype 'FP33'; the protocol has BOOL, INT8"),
        (request_with([1], "FP32", [bytes(4), bytes(4)]), "raw_input_contents has 2 entries for 1 inputs"),
        (request_with([1], "FP32", [bytes(4)], fp32_contents=[1.0]), "which raw_input_contents rules out"),
        (
            request_with([2], "FP32", [], fp32_contents=[1.0]),
            r"shape \[2\] has 2 elements.* 1 values of FP32",
        ),
        (request_with([1], "INT8", [], int_contents=[200]), "the value 200 does not fit INT8"),
        (request_with([1], "FP16", [], fp32_contents=[1.0]), "FP16 has no typed contents"),
    ],
)
def test_errors_say_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(ProtoError, match=message):
        decode_request(data)


def test_encoding_errors_name_the_tensor() -> None:
    for tensor, raw, message in (
        (InferTensor("x", "FP32", np.zeros(2)), True, "tensor 'x': FP32 takes float32 elements, not float64"),
        (InferTensor("x", "FP16", np.zeros(2, np.float16)), False, "FP16 has no typed contents"),
        (InferTensor("x", "BYTES", np.array([1], object)), True, "is a int, not bytes or str"),
        (InferTensor("x", "BYTES", np.zeros(2)), True, "BYTES takes bytes or str"),
        (InferTensor("x", "TEXT", np.zeros(2)), True, "unknown datatype 'TEXT'"),
    ):
        with pytest.raises(ProtoError, match=message):
            encode_request("m", [tensor], raw=raw)
    with pytest.raises(ProtoError, match="no datatype for numpy's complex128"):
        InferTensor.of("x", np.zeros(1, complex))
    with pytest.raises(ProtoError, match="does not fit 64 bits"):
        encode_request("m", [], parameters={"a": 2**64})
    with pytest.raises(ProtoError, match="a list is not bool"):
        encode_request("m", [], parameters={"a": []})  # type: ignore[dict-item]
