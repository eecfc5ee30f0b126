"""Messages that follow a pattern must decode and encode as if there were none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from libs.proto.kserve import InferTensor, RequestedOutput, decode_request, decode_response, encode_request
from libs.proto.wire import ProtoError
from libs.serving.errors import InvalidArgument
from services.torch_worker.execution.arguments import NamedInputs
from services.torch_worker.protocols.kserve_forms import Form
from services.torch_worker.protocols.kserve_grpc import encode_answer
from services.torch_worker.protocols.kserve_patterns import FormDecoder
from services.torch_worker.protocols.kserve_signature import Signature
from services.torch_worker.protocols.kserve_spec import Tensor

RNG = np.random.default_rng(3)


def random_request(raw: bool) -> bytes:
    """One of not so many forms, with numbers of its own."""
    inputs = []
    for name in ("x", "y", "z")[: RNG.integers(1, 4)]:
        dtype = RNG.choice(["float32", "float64"] + ["int64", "bool", "float16"] * raw)
        array = RNG.integers(-5, 5, (RNG.integers(1, 3), 4)).astype(dtype)
        inputs.append(InferTensor.of(name, array))
    return encode_request(
        "m",
        inputs,
        id=str(RNG.integers(3)),
        parameters={"a": 1} if RNG.integers(2) else {},
        outputs=[RequestedOutput("y")] if RNG.integers(2) else [],
        raw=raw,
    )


def test_patterns_change_nothing() -> None:
    decoder = FormDecoder()
    shared = 0
    forms: list[Form] = []
    for n in range(3000):
        body = random_request(raw=bool(n % 4))
        form, payload = decoder.decode(body)
        request = decode_request(body)
        expected = Form.of(request)
        for name in ("model_name", "id", "parameters", "inputs", "requested", "raw", "priority"):
            assert getattr(form, name) == getattr(expected, name)
        arrays = payload if isinstance(payload, NamedInputs) else {request.inputs[0].name: payload}
        assert list(arrays) == [tensor.name for tensor in request.inputs]
        for tensor in request.inputs:
            assert arrays[tensor.name].dtype == tensor.array.dtype
            np.testing.assert_array_equal(arrays[tensor.name], tensor.array)
        shared += any(form is known for known in forms)
        forms.append(form)
    assert shared > 50, "patterns were used"


@pytest.mark.parametrize("array", [np.array([b"a"], object), np.zeros((0, 3), np.float32)])
def test_what_makes_no_pattern(array: Any) -> None:
    decoder = FormDecoder()
    body = encode_request("m", [InferTensor.of("x", array)])
    first, second = decoder.decode(body), decoder.decode(body)
    assert first[0] is not second[0]
    np.testing.assert_array_equal(first[1], second[1])


def test_a_pattern_that_never_matches_is_replaced() -> None:
    decoder = FormDecoder()
    old, new = (
        encode_request("m", [InferTensor.of("x", np.ones((1, 4), np.float32))], id=i) for i in ("a", "b")
    )
    decoder.decode(old)
    forms = [decoder.decode(new)[0] for _ in range(40)]
    assert forms[-1] is forms[-2] and forms[0] is not forms[1]
    assert decoder.decode(old)[0].id == "a"


def test_malformed_messages() -> None:
    body = encode_request("m", [InferTensor.of("x", np.ones((1, 4), np.float32))])
    decoder = FormDecoder()
    decoder.decode(body)
    for cut in range(1, len(body)):
        with pytest.raises((ProtoError, InvalidArgument)):
            decoder.decode(body[:cut])


def form_of(body: bytes) -> Form:
    return FormDecoder().decode(body)[0]


def test_answers_remember_their_beginning_and_nothing_else() -> None:
    form = form_of(encode_request("m", [InferTensor.of("x", np.ones((1, 4), np.float32))], id="7"))
    signatures = Signature(), Signature()
    for n in range(60):
        dtype = ("float32", "float64", "int64", "bool", ">f4")[n % 5]
        result = RNG.integers(0, 2, (1 + n % 3, 2)).astype(dtype)
        result = result if n % 2 else np.asfortranarray(result)
        answer = decode_response(encode_answer(form, signatures[n % 2], str(n % 2), result))
        assert (answer.model_name, answer.model_version, answer.id) == ("m", str(n % 2), "7")
        (output,) = answer.outputs
        assert output.name == "output_0" and output.array.dtype.newbyteorder(
            "="
        ) == result.dtype.newbyteorder("=")
        np.testing.assert_array_equal(output.array, result)
    assert 0 < len(form.heads) <= 8


def test_typed_requests_are_answered_typed_where_that_can_be() -> None:
    form = form_of(encode_request("m", [InferTensor.of("x", np.ones((1, 4), np.float32))], raw=False))
    assert not decode_response(encode_answer(form, Signature(), "1", np.ones((1, 2)))).raw
    assert decode_response(encode_answer(form, Signature(), "1", np.ones((1, 2), np.float16))).raw


def test_a_declared_datatype_is_not_remembered_wrongly() -> None:
    form = form_of(encode_request("m", [InferTensor.of("x", np.ones((1, 4), np.float32))]))
    signature = Signature(outputs=(Tensor("y", "BF16", (-1, 2)),))
    for value in (0.0, 1.5):
        (output,) = decode_response(
            encode_answer(form, signature, "1", np.full((1, 2), value, np.float32))
        ).outputs
        assert (output.name, output.datatype) == ("y", "BF16")
        assert output.array.astype(float).tolist() == [[value, value]]
