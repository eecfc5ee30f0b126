"""The TensorProto codec against TensorFlow: its Python helpers and, through parse_tensor, its C++ parser."""

from __future__ import annotations

import random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2

from libs.proto.dtypes import ELEMENT_TYPES, DataType
from libs.proto.tensor import decode_tensor, decode_typed_tensor, encode_tensor
from libs.proto.testing import assert_same, scrambled
from libs.proto.wire import ProtoError

PROPERTY = settings(max_examples=200, deadline=None)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
NUMERIC = ["f4", "f8", "i4", "u1", "i2", "i1", "i8", "?", "u2", "u4", "u8", "f2", "c8", "c16"]
ML_DTYPES = {
    DataType.DT_BFLOAT16: ml_dtypes.bfloat16,
    DataType.DT_FLOAT8_E5M2: ml_dtypes.float8_e5m2,
    DataType.DT_FLOAT8_E4M3FN: ml_dtypes.float8_e4m3fn,
    DataType.DT_FLOAT8_E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    DataType.DT_FLOAT8_E4M3B11FNUZ: ml_dtypes.float8_e4m3b11fnuz,
    DataType.DT_FLOAT8_E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
    DataType.DT_INT4: ml_dtypes.int4,
    DataType.DT_UINT4: ml_dtypes.uint4,
}
QUANTIZED = {
    DataType.DT_QINT8: "i1",
    DataType.DT_QUINT8: "u1",
    DataType.DT_QINT16: "i2",
    DataType.DT_QUINT16: "u2",
    DataType.DT_QINT32: "i4",
}


def by_tensorflow(data: bytes) -> Any:
    """The array in a serialized TensorProto as TensorFlow's C++ code reads it."""
    tensor = tensor_pb2.TensorProto.FromString(data)
    value = tf.io.parse_tensor(data, tf.dtypes.as_dtype(tensor.dtype)).numpy()
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


@PROPERTY
@given(hnp.arrays(st.sampled_from(NUMERIC).map(np.dtype), SHAPES))
def test_numeric_arrays_both_ways(array: Any) -> None:
    assert_same(decode_tensor(tf.make_tensor_proto(array).SerializeToString()), array)
    data = encode_tensor(array)
    assert_same(tf.make_ndarray(tensor_pb2.TensorProto.FromString(data)), array)
    assert_same(by_tensorflow(data), array)


@PROPERTY
@given(hnp.arrays(object, SHAPES, elements=st.binary(max_size=50)))
def test_strings_both_ways(array: Any) -> None:
    # make_tensor_proto wants nested lists: it does not take every object array.
    official = tf.make_tensor_proto(array.tolist(), dtype=tf.string, shape=array.shape).SerializeToString()
    assert_same(decode_tensor(official), array)
    data = encode_tensor(array)
    assert_same(tf.make_ndarray(tensor_pb2.TensorProto.FromString(data)), array)
    assert_same(by_tensorflow(data), array)


VALUE_FIELDS = {
    DataType.DT_FLOAT: ("float_val", st.floats(width=32)),
    DataType.DT_DOUBLE: ("double_val", st.floats()),
    DataType.DT_INT32: ("int_val", st.integers(-(2**31), 2**31 - 1)),
    DataType.DT_UINT8: ("int_val", st.integers(0, 255)),
    DataType.DT_INT16: ("int_val", st.integers(-(2**15), 2**15 - 1)),
    DataType.DT_INT8: ("int_val", st.integers(-128, 127)),
    DataType.DT_UINT16: ("int_val", st.integers(0, 65535)),
    DataType.DT_STRING: ("string_val", st.binary(max_size=9)),
    DataType.DT_INT64: ("int64_val", st.integers(-(2**63), 2**63 - 1)),
    DataType.DT_BOOL: ("bool_val", st.booleans()),
    DataType.DT_UINT32: ("uint32_val", st.integers(0, 2**32 - 1)),
    DataType.DT_UINT64: ("uint64_val", st.integers(0, 2**64 - 1)),
    DataType.DT_HALF: ("half_val", st.integers(0, 65535)),
    DataType.DT_BFLOAT16: ("half_val", st.integers(0, 65535)),
}


@PROPERTY
@given(st.sampled_from(sorted(VALUE_FIELDS)), SHAPES, st.data(), st.randoms(use_true_random=False))
def test_typed_values_as_tensorflow_reads_them(
    data_type: DataType, shape: tuple[int, ...], data: Any, rng: random.Random
) -> None:
    field, elements = VALUE_FIELDS[data_type]
    count = int(np.prod(shape))
    values = data.draw(st.lists(elements, min_size=min(count, 1), max_size=count))
    tensor = tensor_pb2.TensorProto(dtype=int(data_type), **{field: values})
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add().size = size
    ours = decode_tensor(tensor.SerializeToString())
    assert_same(ours, tf.make_ndarray(tensor))
    assert_same(ours, by_tensorflow(tensor.SerializeToString()))
    # However the same fields are arranged, both read the same or both refuse.
    arranged = scrambled(rng, tensor.SerializeToString(), depth=1)
    again = tensor_pb2.TensorProto.FromString(arranged)
    try:
        expected = by_tensorflow(arranged)
    except (tf.errors.InvalidArgumentError, TypeError):
        expected = None
    sizes = [dim.size for dim in again.tensor_shape.dim]
    have = len(getattr(again, field)) if again.dtype == data_type else 0
    if expected is None or have > np.prod(sizes):
        # TensorFlow ignores surplus values, which is refused here: the shape is then likely wrong.
        with pytest.raises(ProtoError):
            decode_tensor(arranged)
    else:
        assert_same(decode_tensor(arranged), expected)


@pytest.mark.parametrize("data_type", sorted(ML_DTYPES))
def test_types_that_numpy_lacks(data_type: DataType) -> None:
    scalar = ML_DTYPES[data_type]
    array = np.array([[0, 1], [2, 3]]).astype(scalar)
    data = encode_tensor(array)
    assert tensor_pb2.TensorProto.FromString(data).dtype == data_type
    assert_same(decode_tensor(data).astype(np.float32), array.astype(np.float32))
    assert decode_tensor(data).dtype == array.dtype
    read = by_tensorflow(data)
    assert read.dtype == array.dtype
    assert read.tobytes() == array.tobytes()


@pytest.mark.parametrize("data_type", [DataType.DT_FLOAT8_E5M2, DataType.DT_FLOAT8_E4M3FN, DataType.DT_INT4])
def test_typed_values_of_types_that_numpy_lacks(data_type: DataType) -> None:
    array = np.array([1, 2, 3]).astype(ML_DTYPES[data_type])
    official = tf.make_tensor_proto(tf.constant(array))
    ours = decode_tensor(official.SerializeToString())
    assert ours.dtype == array.dtype
    assert ours.tobytes() == array.tobytes()
    if data_type != DataType.DT_INT4:
        typed = tensor_pb2.TensorProto(dtype=int(data_type), float8_val=array.tobytes()[:2])
        typed.tensor_shape.dim.add().size = 3
        assert (
            decode_tensor(typed.SerializeToString()).tobytes()
            == by_tensorflow(typed.SerializeToString()).tobytes()
        )


@pytest.mark.parametrize("data_type", sorted(QUANTIZED))
def test_quantized_types(data_type: DataType) -> None:
    array = np.array([1, 2, 100], QUANTIZED[data_type])
    # TensorFlow's numpy form of these has one field, named like the type.
    official = tf.make_tensor_proto(array.astype(tf.dtypes.as_dtype(int(data_type)).as_numpy_dtype))
    found, ours = decode_typed_tensor(official.SerializeToString())
    assert found is data_type
    assert_same(ours, array)
    read = tf.io.parse_tensor(encode_tensor(array, data_type), tf.dtypes.as_dtype(int(data_type)))
    assert_same(tf.bitcast(read, array.dtype).numpy(), array)


def test_strings_in_tensor_content_as_tensorflow_reads_them() -> None:
    tensor = tensor_pb2.TensorProto(dtype=7, tensor_content=b"\x01\x00\xac\x02x" + b"y" * 300)
    tensor.tensor_shape.dim.add().size = 3
    assert_same(decode_tensor(tensor.SerializeToString()), by_tensorflow(tensor.SerializeToString()))


def test_every_type_of_this_environment_is_covered() -> None:
    known = {data_type for data_type in DataType if data_type in ELEMENT_TYPES}
    missing = set(DataType) - known
    assert missing == {DataType.DT_RESOURCE, DataType.DT_VARIANT}
