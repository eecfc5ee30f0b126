from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from libs.proto.dtypes import ELEMENT_TYPES, DataType
from libs.serving.errors import InvalidArgument
from services.tf_serving import tensors
from services.tf_serving.runtime import tensorflow

PLAIN = [
    data_type
    for data_type in (DataType(number) for number in ELEMENT_TYPES)
    if data_type.name.split("_")[1].rstrip("0123456789")
    in ("FLOAT", "DOUBLE", "INT", "UINT", "COMPLEX", "BOOL", "HALF", "BFLOAT", "STRING")
    and data_type.name not in ("DT_INT4", "DT_UINT4", "DT_INT2", "DT_UINT2")
    and "FLOAT8" not in data_type.name
    and "FLOAT4" not in data_type.name
]
QUANTIZED = [
    DataType.DT_QINT8,
    DataType.DT_QUINT8,
    DataType.DT_QINT16,
    DataType.DT_QUINT16,
    DataType.DT_QINT32,
]


@st.composite
def arrays(draw: st.DrawFn, data_types: list[DataType]) -> tuple[DataType, np.ndarray[Any, Any]]:
    data_type = draw(st.sampled_from(data_types))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))
    count = int(np.prod(shape))
    if data_type is DataType.DT_STRING:
        values = np.empty(count, object)
        values[:] = draw(st.lists(st.binary(max_size=200), min_size=count, max_size=count))
        return data_type, values.reshape(shape)
    dtype = ELEMENT_TYPES[data_type].array
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    if dtype.kind == "b":
        return data_type, (np.frombuffer(raw, "u1") & 1).astype("?").reshape(shape)
    array = np.frombuffer(raw, dtype).reshape(shape)
    if dtype.kind in "fcV":
        # Python's floats, through which the official classes take values, do not keep a signalling NaN's
        # bits.
        with np.errstate(invalid="ignore"):
            array = np.where(np.isnan(array), dtype.type(np.nan), array)
    return data_type, array


def bits(array: np.ndarray[Any, Any]) -> object:
    """Something that compares equal for equal bit patterns, NaNs too."""
    return array.tolist() if array.dtype == object else np.ascontiguousarray(array).tobytes()


def official(array: np.ndarray[Any, Any], data_type: DataType, *, typed: bool) -> Any:
    """TensorFlow's own proto of an array. tf.make_tensor_proto chooses content or typed values by itself;
    made from a list it writes typed ones."""
    tf = tensorflow()
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    if not typed:
        return tf.make_tensor_proto(array, dtype=tf.as_dtype(int(data_type)), shape=array.shape)
    proto = TensorProto(dtype=int(data_type))
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = array.reshape(-1)
    name, values = {
        "DT_FLOAT": ("float_val", flat),
        "DT_DOUBLE": ("double_val", flat),
        "DT_BOOL": ("bool_val", flat),
        "DT_STRING": ("string_val", flat),
        "DT_INT64": ("int64_val", flat),
        "DT_UINT32": ("uint32_val", flat),
        "DT_UINT64": ("uint64_val", flat),
        "DT_HALF": ("half_val", flat),
        "DT_BFLOAT16": ("half_val", flat),
        "DT_COMPLEX64": ("scomplex_val", flat),
        "DT_COMPLEX128": ("dcomplex_val", flat),
    }.get(data_type.name, ("int_val", flat))
    if name == "half_val":
        values = values.view("u2")
    elif name == "scomplex_val":
        values = values.view("f4")
    elif name == "dcomplex_val":
        values = values.view("f8")
    getattr(proto, name).extend(values.tolist())
    return proto


@settings(max_examples=600, deadline=None)
@given(arrays([*PLAIN, *QUANTIZED]), st.booleans())
def test_requests_decode_as_tensorflow_wrote_them(given_array: Any, typed: bool) -> None:
    data_type, array = given_array
    proto = official(array, data_type, typed=typed or data_type in QUANTIZED)
    found, shape, decoded = tensors.array_of("x", proto)
    assert (found, shape, decoded.shape) == (data_type, array.shape, array.shape)
    assert decoded.dtype == ELEMENT_TYPES[data_type].array
    assert bits(decoded) == bits(array)


@settings(max_examples=600, deadline=None)
@given(arrays([*PLAIN, *QUANTIZED]), st.booleans())
def test_answers_are_the_official_protos_bytes(given_array: Any, as_content: bool) -> None:
    data_type, array = given_array
    tf = tensorflow()
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    encoded = tensors.tensor_bytes(array, data_type, as_content=as_content)
    proto = TensorProto.FromString(encoded)
    if not as_content or data_type is DataType.DT_STRING:
        # Compared as bytes because NaN is not equal to itself, and parsed first because proto3 lets a
        # writer choose whether a size of 0 is spelt out.
        assert proto.SerializeToString() == official(array, data_type, typed=True).SerializeToString()
    else:
        assert proto.tensor_content == array.tobytes()
    if data_type not in QUANTIZED:
        read = tf.make_ndarray(proto)
        assert read.shape == array.shape
        assert bits(np.asarray(read, ELEMENT_TYPES[data_type].array)) == bits(array)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=80))
def test_varints_are_the_same_one_by_one_and_vectorised(values: list[int]) -> None:
    from libs.proto.wire import varint

    assert tensors.varints(np.array(values, "i8")) == b"".join(map(varint, values))


@pytest.mark.parametrize(
    "numbers", [[0] * 30, [127] * 30, [128] * 30, list(range(-40, 40)), [2**63, 2**64 - 1] * 20]
)
def test_long_lists_of_varints_of_mixed_length(numbers: list[int]) -> None:
    from libs.proto.wire import varint

    dtype = "u8" if max(numbers) >= 2**63 else "i8"
    assert tensors.varints(np.array(numbers, dtype)) == b"".join(map(varint, numbers))


def test_a_short_list_repeats_its_last_value_as_tensorflow_has_it() -> None:
    tf = tensorflow()
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    for values in ([], [1.0], [1.0, 2.0]):
        proto = TensorProto(dtype=1, float_val=values)
        proto.tensor_shape.dim.add(size=4)
        assert tensors.array_of("x", proto)[2].tolist() == tf.make_ndarray(proto).tolist()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda p: p.tensor_shape.dim.add(size=3), "has 6 elements, but it has 2 values"),
        (lambda p: p.tensor_shape.dim.add(size=-1), "dimension 1 of the tensor's shape is -1"),
        (lambda p: setattr(p.tensor_shape, "unknown_rank", True), "unknown rank"),
        (lambda p: setattr(p, "dtype", 0), "no dtype"),
        (lambda p: setattr(p, "dtype", 21), "DT_VARIANT"),
        (lambda p: setattr(p, "tensor_content", b"12345"), "tensor_content has 5 bytes"),
    ],
)
def test_what_is_no_tensor_is_refused_with_the_inputs_name(change: Any, complaint: str) -> None:
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    proto = TensorProto(dtype=1, float_val=[1.0, 2.0])
    proto.tensor_shape.dim.add(size=2)
    change(proto)
    if "6 elements" in complaint:
        proto.float_val.append(0)
        del proto.float_val[2:]
        proto.float_val.extend([3.0, 4.0, 5.0, 6.0, 7.0])
        complaint = "6 elements, but it has 7 values"
    with pytest.raises(InvalidArgument, match="tensor parsing error: x: .*" + complaint):
        tensors.array_of("x", proto)
