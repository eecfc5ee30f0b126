from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.proto import messages
from libs.proto.seldon import DataKind, SeldonRequest, decode_message, encode_message, encode_meta
from libs.proto.wire import ProtoError
from services.torch_worker.protocols.seldon_patterns import AnswerEncoder, RequestDecoder


def outcome(decode: Any, body: bytes) -> Any:
    """What a decoder makes of body, comparable."""
    try:
        request: SeldonRequest = decode(body)
    except ProtoError:
        return "refused"
    payload: Any = request.payload
    if isinstance(payload, np.ndarray):
        payload = (str(payload.dtype), payload.shape, payload.tobytes())
    return (
        request.kind,
        payload,
        request.names,
        request.puid,
        request.tags,
        request.raw_meta,
        request.raw_status,
    )


arrays = st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 5)).map(
    lambda t: np.random.default_rng(t[2]).normal(size=t[:2])
)
metas = st.sampled_from(
    [
        b"",
        encode_meta(tags={"taskId": 39}),
        encode_meta(tags={"taskId": 40}),
        encode_meta(tags={"k": [1, 2]}),
        encode_meta(puid="a", tags={"taskId": 39}),
        encode_meta(puid="b", tags={"taskId": 39}),
    ]
)
bodies = st.one_of(
    st.builds(
        lambda array, meta, names: encode_message(DataKind.TENSOR, array, names=names, meta=meta),
        arrays,
        metas,
        st.sampled_from([(), ("x",)]),
    ),
    st.builds(lambda array: encode_message(DataKind.NDARRAY, array), arrays),
    st.builds(lambda text: encode_message(DataKind.STR, text), st.text(max_size=60)),
    st.binary(max_size=60),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(bodies, min_size=1, max_size=40))
def test_decodes_any_traffic_as_the_codec_does(traffic: list[bytes]) -> None:
    decoder = RequestDecoder()
    for body in traffic:
        assert outcome(decoder.decode, body) == outcome(decode_message, body)


@settings(deadline=None, max_examples=300)
@given(arrays.filter(lambda a: a.size > 0), metas, st.data())
def test_a_changed_byte_is_never_overlooked(array: Any, meta: bytes, data: st.DataObject) -> None:
    body = encode_message(DataKind.TENSOR, array, meta=meta)
    decoder = RequestDecoder()
    decoder.decode(body)
    at = data.draw(st.integers(0, len(body) - 1))
    changed = body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :]
    assert outcome(decoder.decode, changed) == outcome(decode_message, changed)


def test_patterns_are_learnt_and_relearnt() -> None:
    decoder = RequestDecoder()
    one = encode_message(DataKind.TENSOR, np.ones((2, 3)), meta=encode_meta(tags={"taskId": 1}))
    two = encode_message(DataKind.TENSOR, np.ones((3, 2)), meta=encode_meta(tags={"taskId": 1}))
    assert len(one) == len(two)
    for body, shape in [(one, (2, 3)), (one, (2, 3))] + [(two, (3, 2))] * 40 + [(one, (2, 3))] * 40:
        assert decoder.decode(body).payload.shape == shape


def test_tags_are_each_requests_own() -> None:
    decoder = RequestDecoder()
    body = encode_message(DataKind.TENSOR, np.ones((1, 2)), meta=encode_meta(tags={"taskId": 1}))
    for _ in range(3):
        request = decoder.decode(body)
        assert request.tags == {"taskId": 1}
        request.tags["more"] = 2


def test_values_of_later_messages_are_their_own() -> None:
    decoder = RequestDecoder()
    for n in range(5):
        assert decoder.decode(encode_message(DataKind.TENSOR, np.full((1, 2), n))).payload.tolist() == [
            [n, n]
        ]


def test_messages_of_other_writers() -> None:
    """The official classes put fields in the order of their numbers; a writer may send values before the
    shape.
    """
    decoder = RequestDecoder()
    message = messages.SeldonMessage()
    message.meta.tags["taskId"].number_value = 7
    message.data.names.extend(["a", "b"])
    message.data.tensor.shape.extend([1, 2])
    message.data.tensor.values.extend([1.5, -2.5])
    body = message.SerializeToString()
    values_first = b"\x1a\x18\x12\x16" + b"\x12\x10" + np.array([1.5, -2.5]).tobytes() + b"\x0a\x02\x01\x02"
    for raw in (body, body, values_first, values_first):
        assert decoder.decode(raw).payload.tolist() == [[1.5, -2.5]]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            arrays,
            st.sampled_from([np.float64, np.float32, np.int64]),
            st.sampled_from([(), ("t:0",), ("t:0", "t:1")]),
            metas,
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_encodes_any_answers_as_the_codec_does(answers: list[Any]) -> None:
    encoder = AnswerEncoder()
    for array, dtype, names, meta, transposed in answers:
        result = array.astype(dtype)
        if transposed:
            result = result.T
        for _ in range(2):
            assert encoder.encode_tensor(result, names, meta) == encode_message(
                DataKind.TENSOR, result, names=names, meta=meta
            )


def test_what_is_no_number_is_refused() -> None:
    encoder = AnswerEncoder()
    encoder.encode_tensor(np.ones(2), (), b"")
    for _ in range(2):
        with pytest.raises(ProtoError):
            encoder.encode_tensor(np.array(["a", "b"], dtype=object), ("x",), b"")
