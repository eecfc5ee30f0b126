from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from libs.proto.messages import POOL, SeldonMessage, Value
from libs.proto.seldon import (
    DataKind,
    decode_message,
    decode_meta,
    decode_status,
    encode_message,
    encode_meta,
)
from libs.proto.testing import assert_same, broken, scrambled
from libs.proto.testing_seldon import check_decoding, python_value, random_message
from libs.proto.wire import ProtoError, len_field, varint

PROPERTY = settings(max_examples=300, deadline=None)
FEATURES = np.arange(138, dtype=np.float64).reshape(1, 138)


def feature_request() -> Any:
    message = SeldonMessage()
    message.data.tensor.shape.extend((1, 138))
    message.data.tensor.values.extend(range(138))
    message.meta.tags["taskId"].number_value = 39
    message.meta.puid = "p-1"
    return message


def test_feature_request_decodes_to_a_view_of_its_bytes() -> None:
    data = feature_request().SerializeToString()
    request = decode_message(data)
    assert request.kind is DataKind.TENSOR
    assert_same(request.payload, FEATURES)
    assert (request.puid, request.tags, request.names) == ("p-1", {"taskId": 39}, [])
    assert isinstance(request.tags["taskId"], int)
    assert not request.payload.flags.writeable
    assert np.shares_memory(request.payload, np.frombuffer(data, np.uint8))


def test_buffers_other_than_bytes_are_taken_and_never_become_writable() -> None:
    data = feature_request().SerializeToString()
    for buffer in (
        memoryview(data),
        memoryview(bytearray(data)),
        memoryview(np.frombuffer(data, np.int8).data),
    ):
        request = decode_message(buffer)
        assert_same(request.payload, FEATURES)
        assert not request.payload.flags.writeable
        assert request.tags == {"taskId": 39}


@PROPERTY
@given(st.randoms(use_true_random=False))
def test_decodes_what_the_generated_class_reads(rng: random.Random) -> None:
    data = random_message(rng, SeldonMessage).SerializeToString()
    check_decoding(SeldonMessage, data)


@PROPERTY
@given(st.randoms(use_true_random=False))
def test_decodes_unusual_writings_as_the_generated_class_does(rng: random.Random) -> None:
    data = scrambled(rng, random_message(rng, SeldonMessage).SerializeToString(), unknown=2)
    try:
        SeldonMessage.FromString(data)
    except Exception:  # a string that is not UTF-8 any more: decoding may refuse or never look at it
        decode_or_refuse(data)
    else:
        check_decoding(SeldonMessage, data)


@PROPERTY
@given(st.randoms(use_true_random=False))
def test_malformed_bytes_raise_proto_error_only(rng: random.Random) -> None:
    decode_or_refuse(broken(rng, random_message(rng, SeldonMessage).SerializeToString()))


@PROPERTY
@given(st.binary(max_size=64))
def test_random_bytes_raise_proto_error_only(data: bytes) -> None:
    decode_or_refuse(data)


def decode_or_refuse(data: bytes) -> None:
    for decode in (decode_message, decode_meta, decode_status):
        try:
            decode(data)
        except ProtoError as error:
            assert str(error)


def test_unpacked_and_split_lists() -> None:
    doubles = np.arange(6, dtype="<f8")
    pieces = [
        b"\x08\x02",  # an unpacked 2 of the shape
        b"\x12\x10" + doubles[:2].tobytes(),
        b"".join(b"\x11" + value.tobytes() for value in doubles[2:4]),
        b"\x0a\x01\x03",  # a packed 3 of the shape
        b"\x12\x10" + doubles[4:].tobytes(),
    ]
    data = len_field(3, len_field(2, b"".join(pieces)))
    assert_same(check(data).payload, doubles.reshape(2, 3))


def check(data: bytes) -> Any:
    decoded = check_decoding(SeldonMessage, data)
    assert decoded is not None
    return decoded


def test_repeated_messages_merge_and_the_last_payload_wins() -> None:
    first = SeldonMessage()
    first.data.tensor.shape.append(3)
    first.data.tensor.values.append(1)
    first.meta.puid = "old"
    first.meta.tags["a"].list_value.extend([1])
    second = SeldonMessage()
    second.data.tensor.values.extend([2, 3])
    second.meta.puid = "new"
    second.meta.tags["a"].number_value = 7
    binary = SeldonMessage(binData=b"x")
    one, two, other = (message.SerializeToString() for message in (first, second, binary))
    merged = check(one + two)
    assert_same(merged.payload, np.array([1.0, 2.0, 3.0]))
    assert (merged.puid, merged.tags) == ("new", {"a": 7})
    assert check(two + other).payload == b"x"
    assert_same(check(other + one + two).payload, np.array([1.0, 2.0, 3.0]))
    two_alone = SeldonMessage.FromString(one + other + two)
    assert list(two_alone.data.tensor.values) == [2, 3]  # the first data was cleared by binData
    with pytest.raises(ProtoError, match=r"declares shape \[\] \(1 values\) but has 2 values"):
        decode_message(one + other + two)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 139), r"shape \[1, 139\] \(139 values\) but has 138 values"),
        ((2**31 - 1, 2**31 - 1), r"\(4611686014132420609 values\) but has 138 values"),
        ((-1, 0), "but has 138 values"),
        ((-1, -1), "but has 138 values"),
        ((-138, -1), "but has 138 values"),
        ((-5, 138), "but has 138 values"),
        ((1,) * 66 + (138,), "beyond what numpy can hold"),
        ((), r"shape \[\] \(1 values\) but has 138 values"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shape: tuple[int, ...], message: str) -> None:
    request = feature_request()
    request.data.tensor.ClearField("shape")
    request.data.tensor.shape.extend(shape)
    with pytest.raises(ProtoError, match=message):
        decode_message(request.SerializeToString())


def test_one_free_dimension_is_decided_by_the_values() -> None:
    request = feature_request()
    request.data.tensor.shape[:] = (-1, 69)
    assert decode_message(request.SerializeToString()).payload.shape == (2, 69)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x1a\x7f\x00", "field 3 claims 127 bytes"),
        (b"\x1a", "cut off"),
        (b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "more than 10 bytes"),
        (b"\x1a\xff\xff\xff\xff\x7f", "limit"),
        (b"\x00\x01", "no field can have the tag 0"),
        (b"\x1f", "unexpected wire type 7"),
        (b"\x1c", "unexpected wire type 4"),
        (b"\x2a\x02\xff\xfe", "not valid UTF-8"),
        (len_field(3, len_field(2, b"\x12\x07" + bytes(7))), "7 bytes does not divide into 8-byte"),
        (len_field(3, len_field(2, b"\x0a\x01\x80")), "stops inside a number"),
    ],
)
def test_errors_say_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(ProtoError, match=message):
        decode_message(data)


NUMERIC = hnp.arrays(
    st.sampled_from([np.dtype(name) for name in ("f8", "f4", ">f8", "i8", "u1", "i4", "f2")]),
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
)


@PROPERTY
@given(NUMERIC, st.lists(st.text(max_size=5), max_size=3))
def test_numeric_arrays_are_written_as_the_generated_class_reads_them(array: Any, names: list[str]) -> None:
    expected = array.astype(np.float64)
    for kind in (DataKind.TENSOR, DataKind.NDARRAY):
        data = encode_message(kind, array, names=names, meta=encode_meta(puid="p"))
        message = SeldonMessage.FromString(data)
        assert (list(message.data.names), message.meta.puid) == (names, "p")
        if kind is DataKind.TENSOR:
            assert_same(
                np.array(message.data.tensor.values).reshape(list(message.data.tensor.shape)), expected
            )
            assert_same(decode_message(data).payload, expected)
        else:
            lists = [python_value(item) for item in message.data.ndarray.values]
            assert repr(lists) == repr(expected.tolist())
            assert_same(decode_message(data).payload, np.array(expected.tolist()))


def test_layouts_and_lists_are_written_right() -> None:
    matrix = np.arange(6.0).reshape(2, 3)
    for payload in (
        matrix.T.copy().T,
        matrix[:, ::-1][:, ::-1],
        matrix.tolist(),
        tuple(map(tuple, matrix.tolist())),
    ):
        for kind in (DataKind.TENSOR, DataKind.NDARRAY, DataKind.TFTENSOR):
            assert_same(decode_message(encode_message(kind, payload)).payload, matrix)
    assert decode_message(encode_message(DataKind.TENSOR, np.float64(2.5))).payload.shape == ()


@pytest.mark.parametrize(
    ("kind", "payload", "message"),
    [
        (DataKind.TENSOR, ["a"], "takes numbers"),
        (DataKind.TENSOR, [[1.0], [1.0, 2.0]], "takes numbers"),
        (DataKind.TENSOR, np.array([1j]), "takes numbers"),
        (DataKind.NDARRAY, "abc", "takes an array or lists"),
        (DataKind.TFTENSOR, [object()], "not bytes or str"),
        (DataKind.BIN, "text", "binData must be bytes, not str"),
        (DataKind.STR, b"bytes", "strData must be str, not bytes"),
        (DataKind.CUSTOM, None, "customData must be bytes"),
    ],
)
def test_payloads_of_another_kind_are_refused(kind: DataKind, payload: Any, message: str) -> None:
    with pytest.raises(ProtoError, match=message):
        encode_message(kind, payload)


def test_other_kinds_round_trip() -> None:
    assert decode_message(encode_message(DataKind.BIN, bytearray(b"\x00\xff"))).payload == b"\x00\xff"
    assert decode_message(encode_message(DataKind.STR, "数字")).payload == "数字"
    empty = decode_message(encode_message(None, None, meta=encode_meta(puid="x")))
    assert (empty.kind, empty.payload, empty.puid) == (None, None, "x")
    strings = np.array([b"a", b"\xff"], object)
    assert_same(decode_message(encode_message(DataKind.TFTENSOR, strings)).payload, strings)
    custom = POOL.FindMessageTypeByName("google.protobuf.Any")
    data = SeldonMessage(customData={"type_url": "t/x", "value": b"1"}).SerializeToString()
    decoded = decode_message(data)
    assert decoded.kind is DataKind.CUSTOM
    assert encode_message(DataKind.CUSTOM, decoded.payload) == data
    assert custom.full_name == "google.protobuf.Any"


def test_ten_byte_lengths_and_long_tags_are_read() -> None:
    # A length may be written with more bytes than it needs.
    assert check(b"\x2a\x83\x80\x00abc").payload == "abc"
    assert check(b"\xaa\x00\x03abc").payload == "abc"
    assert varint(3) == b"\x03"
    assert python_value(Value.FromString(b"")) is None


def test_hostile_sizes_cost_little() -> None:
    # Millions of dimensions, whose product would have millions of digits; millions of parts of one list.
    dimensions = len_field(3, len_field(2, len_field(1, b"\xff\xff\xff\xff\x07" * 400_000)))
    with pytest.raises(ProtoError, match="a shape of 400000 dimensions is beyond"):
        decode_message(dimensions)
    parts = len_field(6, b"\x32\x00" * 400_000)
    assert decode_message(parts).payload == []
