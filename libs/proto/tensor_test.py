from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from libs.proto import dtypes, messages
from libs.proto.dtypes import DataType
from libs.proto.messages import TensorProto
from libs.proto.tensor import decode_tensor, decode_typed_tensor, encode_tensor
from libs.proto.testing import assert_same, broken, scrambled
from libs.proto.wire import ProtoError, len_field

PROPERTY = settings(max_examples=300, deadline=None)

PLAIN = {
    DataType.DT_FLOAT: ("f4", "float_val"),
    DataType.DT_DOUBLE: ("f8", "double_val"),
    DataType.DT_INT32: ("i4", "int_val"),
    DataType.DT_UINT8: ("u1", "int_val"),
    DataType.DT_INT16: ("i2", "int_val"),
    DataType.DT_INT8: ("i1", "int_val"),
    DataType.DT_INT64: ("i8", "int64_val"),
    DataType.DT_BOOL: ("?", "bool_val"),
    DataType.DT_UINT16: ("u2", "int_val"),
    DataType.DT_UINT32: ("u4", "uint32_val"),
    DataType.DT_UINT64: ("u8", "uint64_val"),
}
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def arrays() -> Any:
    names = [name for name, _ in PLAIN.values()] + ["f2", "c8", "c16", ">f4", ">i8", ">u2"]
    return hnp.arrays(st.sampled_from(names).map(np.dtype), SHAPES)


def proto(data_type: int, shape: Any, **fields: Any) -> Any:
    tensor = TensorProto(dtype=data_type, **fields)  # type: ignore[arg-type]
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add().size = size
    return tensor


@PROPERTY
@given(arrays())
def test_arrays_round_trip_through_the_generated_class(array: Any) -> None:
    data = encode_tensor(array)
    tensor = TensorProto.FromString(data)
    little = array.astype(array.dtype.newbyteorder("<"))
    assert [dim.size for dim in tensor.tensor_shape.dim] == list(array.shape)
    assert tensor.tensor_content == little.tobytes()
    assert_same(decode_tensor(data), little)
    assert_same(decode_tensor(tensor.SerializeToString()), little)


def test_content_decodes_to_a_view() -> None:
    data = encode_tensor(np.arange(12, dtype=np.float32).reshape(3, 4))
    array = decode_tensor(data)
    assert not array.flags.writeable
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    typed = proto(DataType.DT_FLOAT, (3,), float_val=[1, 2, 3]).SerializeToString()
    assert np.shares_memory(decode_tensor(typed), np.frombuffer(typed, np.uint8))


@PROPERTY
@given(st.sampled_from(sorted(PLAIN)), SHAPES, st.data())
def test_typed_values_repeat_the_last_one(data_type: DataType, shape: tuple[int, ...], data: Any) -> None:
    name, field = PLAIN[data_type]
    count = int(np.prod(shape))
    given_values = data.draw(hnp.arrays(np.dtype(name), st.integers(0, count)))
    tensor = proto(data_type, shape, **{field: given_values.tolist()})
    expected = np.zeros(count, name)
    expected[: given_values.size] = given_values
    if given_values.size:
        expected[given_values.size :] = given_values[-1]
    found, array = decode_typed_tensor(tensor.SerializeToString())
    assert found is data_type
    assert_same(array, expected.reshape(shape))


@PROPERTY
@given(st.sampled_from(sorted(PLAIN)), st.data(), st.randoms(use_true_random=False))
def test_lists_may_be_split_and_unpacked(data_type: DataType, data: Any, rng: random.Random) -> None:
    name, field = PLAIN[data_type]
    array = data.draw(hnp.arrays(np.dtype(name), st.integers(1, 60)))
    # Each part is written packed or not, as protobuf allows; merging bytes concatenates lists.
    parts = [proto(data_type, array.shape).SerializeToString()]
    number = TensorProto.DESCRIPTOR.fields_by_name[field].number
    for chunk in np.array_split(array, rng.randint(1, 4)):
        packed = TensorProto(**{field: chunk.tolist()}).SerializeToString()
        if rng.random() < 0.5 and name in ("f4", "f8"):
            tag = bytes((number << 3 | (5 if name == "f4" else 1),))
            packed = b"".join(tag + value.tobytes() for value in chunk)
        parts.append(packed)
    written = b"".join(parts)
    assert list(getattr(TensorProto.FromString(written), field)) == array.tolist() or array.dtype.kind == "f"
    assert_same(decode_tensor(written), array)


def test_single_varints_are_elements_too() -> None:
    shape = proto(DataType.DT_INT64, (5,)).SerializeToString()
    single = b"\x50\x07\x50\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    packed = b"\x52\x02\x01\x02"
    assert decode_tensor(shape + single + packed + b"\x50\x03").tolist() == [7, -1, 1, 2, 3]


def test_half_and_complex_values() -> None:
    half = np.array([1.5, -2.0, np.inf, 6e-8], np.float16)
    tensor = proto(DataType.DT_HALF, (6,), half_val=half.view(np.uint16).tolist())
    assert_same(decode_tensor(tensor.SerializeToString()), np.append(half, half[-1:].repeat(2)))
    tensor = proto(DataType.DT_COMPLEX64, (3,), scomplex_val=[1, 2, 3, 4])
    assert_same(decode_tensor(tensor.SerializeToString()), np.array([1 + 2j, 3 + 4j, 3 + 4j], np.complex64))
    tensor = proto(DataType.DT_COMPLEX128, (), dcomplex_val=[1, -2])
    assert_same(decode_tensor(tensor.SerializeToString()), np.array(1 - 2j))
    with pytest.raises(ProtoError, match="come in pairs"):
        decode_tensor(proto(DataType.DT_COMPLEX64, (2,), scomplex_val=[1, 2, 3]).SerializeToString())


STRINGS = st.lists(st.binary(max_size=200), max_size=12)


@PROPERTY
@given(STRINGS)
def test_strings_round_trip(strings: list[bytes]) -> None:
    array = np.empty(len(strings), object)
    array[:] = strings
    data = encode_tensor(array)
    tensor = TensorProto.FromString(data)
    assert list(tensor.string_val) == strings
    for wire in (data, tensor.SerializeToString(), memoryview(data)):
        decoded = decode_tensor(wire)
        assert_same(decoded, array)
        assert all(isinstance(item, bytes) for item in decoded)


def test_strings_of_every_kind() -> None:
    for array in (np.array([["a", "一"]]), np.array([["a", "一"]], object), [["a", "一"]]):
        assert_same(decode_tensor(encode_tensor(array)), np.array([[b"a", "一".encode()]], object))
    assert_same(decode_tensor(encode_tensor(np.array([b"ab", b"c"]))), np.array([b"ab", b"c"], object))
    assert_same(decode_tensor(encode_tensor(b"scalar")), np.array(b"scalar", object))
    filled = proto(DataType.DT_STRING, (3,), string_val=[b"a", b"b"])
    assert decode_tensor(filled.SerializeToString()).tolist() == [b"a", b"b", b"b"]
    assert decode_tensor(proto(DataType.DT_STRING, (2,)).SerializeToString()).tolist() == [b"", b""]
    with pytest.raises(ProtoError, match="is a int, not bytes or str"):
        encode_tensor(np.array([b"a", 1], object))
    with pytest.raises(ProtoError, match="UTF-8"):
        encode_tensor(["\ud800"])


def test_strings_in_tensor_content() -> None:
    long = b"y" * 300
    content = b"\x01\x00\xac\x02" + b"x" + long
    tensor = proto(DataType.DT_STRING, (3,), tensor_content=content)
    assert decode_tensor(tensor.SerializeToString()).tolist() == [b"x", b"", long]
    for wrong in (content[:-1], content + b"z", b"\x80", b"\xff\xff\xff\xff\x0fabc"):
        with pytest.raises(ProtoError, match="shape"):
            decode_tensor(proto(DataType.DT_STRING, (3,), tensor_content=wrong).SerializeToString())


def test_quantized_types_are_plain_integers() -> None:
    for data_type, name in (
        (DataType.DT_QINT8, "i1"),
        (DataType.DT_QUINT8, "u1"),
        (DataType.DT_QINT16, "i2"),
        (DataType.DT_QUINT16, "u2"),
        (DataType.DT_QINT32, "i4"),
    ):
        array = np.array([1, 2, 100], name)
        data = encode_tensor(array, data_type)
        assert int(TensorProto.FromString(data).dtype) == int(data_type)
        assert decode_typed_tensor(data)[0] is data_type
        assert_same(decode_tensor(data), array)
        typed = proto(data_type, (3,), int_val=[1, 2, 100])
        assert_same(decode_tensor(typed.SerializeToString()), array)


@PROPERTY
@given(hnp.arrays(np.float32, st.integers(1, 20)))
def test_bfloat16_without_ml_dtypes(values: Any) -> None:
    bits = dtypes.float32_to_bfloat16(values)
    back = dtypes.bfloat16_to_float32(bits)
    finite = np.isfinite(values) & (np.abs(values) < 3e38)
    normal = finite & (np.abs(values) > 1e-37)
    assert np.all(np.abs(back[normal] / values[normal] - 1) <= 2.0**-8)
    assert np.array_equal(np.isnan(back), np.isnan(values))
    assert np.array_equal(back[np.isinf(values)], values[np.isinf(values)])
    # What is a bfloat16 already stays what it is.
    assert np.array_equal(dtypes.float32_to_bfloat16(back)[~np.isnan(back)], bits[~np.isnan(back)])


def test_bfloat16_rounds_to_even() -> None:
    ties = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF], "<u4").view("<f4")
    assert dtypes.float32_to_bfloat16(ties).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80]


def test_bfloat16_values_survive_in_any_environment() -> None:
    values = np.array([1.5, -2.0, 3e38, 0.0], np.float32)
    data = encode_tensor(values, DataType.DT_BFLOAT16)
    tensor = TensorProto.FromString(data)
    assert (int(tensor.dtype), len(tensor.tensor_content)) == (int(DataType.DT_BFLOAT16), 8)
    assert_same(
        decode_tensor(data).astype(np.float32), dtypes.bfloat16_to_float32(dtypes.float32_to_bfloat16(values))
    )
    typed = proto(DataType.DT_BFLOAT16, (3,), half_val=[0x3FC0, 0xC000])
    assert decode_tensor(typed.SerializeToString()).astype(np.float32).tolist() == [1.5, -2.0, -2.0]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            proto(DataType.DT_FLOAT, (2, 3), tensor_content=bytes(23)),
            r"shape \[2, 3\] has 6 elements.*23 bytes",
        ),
        (
            proto(DataType.DT_FLOAT, (2,), float_val=[1, 2, 3]),
            r"shape \[2\] has 2 elements.*3 values of DT_FLOAT",
        ),
        (proto(DataType.DT_FLOAT, (2**40, 2**40), float_val=[1]), "more than 67108864 bytes"),
        (proto(DataType.DT_STRING, (2**50,), string_val=[b""]), "more than 67108864 bytes"),
        (proto(DataType.DT_STRING, (2**50,), tensor_content=b"\x00"), "1 bytes"),
        (proto(DataType.DT_DOUBLE, (2**62, 4), tensor_content=bytes(8)), "8 bytes"),
        (proto(DataType.DT_FLOAT, (2**62, 2**62, 0)), "beyond what numpy can hold"),
        (proto(DataType.DT_FLOAT, (1,) * 65, float_val=[1]), "beyond what numpy can hold"),
        (proto(DataType.DT_FLOAT, (-1,), float_val=[1]), "dimension 0 of the tensor's shape is -1"),
        (
            proto(DataType.DT_INT8, (1,), int_val=[300]),
            "the value 300 does not fit DT_INT8, which holds -128 to 127",
        ),
        (proto(DataType.DT_UINT8, (2,), int_val=[3, -1]), "the value -1 does not fit DT_UINT8"),
        (proto(0, ()), "DT_INVALID"),
        (proto(101, ()), "101 is not"),
        (proto(DataType.DT_RESOURCE, ()), "DT_RESOURCE tensors hold handles"),
    ],
)
def test_errors_say_what_is_wrong(tensor: Any, message: str) -> None:
    with pytest.raises(ProtoError, match=message):
        decode_tensor(tensor.SerializeToString())


def test_unknown_rank_is_refused() -> None:
    tensor = proto(DataType.DT_FLOAT, ())
    tensor.tensor_shape.unknown_rank = True
    with pytest.raises(ProtoError, match="unknown rank"):
        decode_tensor(tensor.SerializeToString())


def test_expansion_has_a_bound_of_the_callers_choice() -> None:
    data = proto(DataType.DT_FLOAT, (1000,), float_val=[1.5]).SerializeToString()
    assert decode_tensor(data, max_expanded_bytes=4000).tolist() == [1.5] * 1000
    with pytest.raises(ProtoError, match="more than 3999 bytes"):
        decode_tensor(data, max_expanded_bytes=3999)


def test_casts_that_lose_are_refused() -> None:
    assert decode_tensor(encode_tensor(np.array([1.1]), DataType.DT_HALF)).dtype == np.float16
    assert decode_tensor(encode_tensor(np.array([1], np.int8), DataType.DT_INT64)).dtype == np.int64
    for array, data_type in (
        (np.array([1.5]), DataType.DT_INT32),
        (np.array([1], np.int64), DataType.DT_INT32),
        (np.array([1j]), DataType.DT_FLOAT),
        (np.array(["a"]), DataType.DT_FLOAT),
        (np.array([1.0]), DataType.DT_BOOL),
    ):
        with pytest.raises(ProtoError, match="without loss"):
            encode_tensor(array, data_type)
    with pytest.raises(ProtoError, match="no tensor dtype for numpy's datetime64"):
        encode_tensor(np.array(["2020-01-01"], "datetime64[D]"))
    with pytest.raises(ProtoError, match="not bytes or str"):
        encode_tensor(np.array([1.0]), DataType.DT_STRING)


def test_bools_are_normalised() -> None:
    tensor = proto(DataType.DT_BOOL, (3,), tensor_content=b"\x00\x01\x07")
    assert decode_tensor(tensor.SerializeToString()).view(np.uint8).tolist() == [0, 1, 1]


def test_part_of_a_buffer_decodes() -> None:
    data = encode_tensor(np.arange(3))
    assert decode_tensor(b"##" + data + b"###", 2, 2 + len(data)).tolist() == [0, 1, 2]


def samples() -> list[bytes]:
    """Tensors to break."""
    return [
        encode_tensor(np.arange(6, dtype=np.int64).reshape(2, 3)),
        encode_tensor(np.array([b"abc", b"", b"x" * 20], object)),
        proto(DataType.DT_INT64, (30,), int64_val=[-1, 5, 2**60] * 10).SerializeToString(),
        proto(DataType.DT_BOOL, (40,), bool_val=[True, False] * 20).SerializeToString(),
        proto(DataType.DT_COMPLEX64, (2,), scomplex_val=[1, 2]).SerializeToString(),
        proto(DataType.DT_HALF, (2,), half_val=[1, 65535]).SerializeToString(),
        proto(DataType.DT_FLOAT8_E5M2, (2,), float8_val=b"\x01\x02").SerializeToString(),
        proto(DataType.DT_STRING, (2,), tensor_content=b"\x01\x01ab").SerializeToString(),
        proto(DataType.DT_INT4, (2,), int_val=[1, 2]).SerializeToString(),
    ]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(samples()), st.randoms(use_true_random=False))
def test_malformed_bytes_raise_proto_error_only(data: bytes, rng: random.Random) -> None:
    for wire in (broken(rng, data), scrambled(rng, data)):
        try:
            decode_tensor(wire)
        except ProtoError as error:
            assert str(error)


def test_our_numbers_are_the_protos() -> None:
    official = {name: number for name, number in messages.DataType.items() if 0 < number < 100}
    assert {item.name: int(item) for item in DataType} == official
    for element in dtypes.ELEMENT_TYPES.values():
        assert TensorProto.DESCRIPTOR.fields_by_number[element.field].name.endswith("_val")


def test_merged_shapes_append_their_dimensions() -> None:
    one = proto(DataType.DT_FLOAT, (2,), float_val=[7]).SerializeToString()
    two = len_field(2, len_field(2, b"\x08\x03"))
    assert [dim.size for dim in TensorProto.FromString(one + two).tensor_shape.dim] == [2, 3]
    assert decode_tensor(one + two).shape == (2, 3)
