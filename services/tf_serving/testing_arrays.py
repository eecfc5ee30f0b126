"""For tests: arrays of every dtype with any bits, and the official TensorProtos of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from libs.proto.dtypes import ELEMENT_TYPES, DataType
from services.tf_serving.execution.runtime import tensorflow

PLAIN = [
    *(DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_HALF, DataType.DT_BFLOAT16),
    *(DataType.DT_INT8, DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64),
    *(DataType.DT_UINT8, DataType.DT_UINT16, DataType.DT_UINT32, DataType.DT_UINT64),
    *(DataType.DT_BOOL, DataType.DT_STRING, DataType.DT_COMPLEX64, DataType.DT_COMPLEX128),
]
QUANTIZED = [
    DataType.DT_QINT8,
    DataType.DT_QUINT8,
    DataType.DT_QINT16,
    DataType.DT_QUINT16,
    DataType.DT_QINT32,
]


_SIGNED = {"int2": (-2, 2), "int4": (-8, 8)}


@st.composite
def arrays(draw: st.DrawFn, data_types: list[DataType]) -> tuple[DataType, np.ndarray[Any, Any]]:
    """A DataType and an array of it: up to three dimensions of up to nine, any bits, any strings."""
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


def random_array(random: np.random.Generator, data_type: DataType) -> np.ndarray[Any, Any]:
    """An array of up to three dimensions of up to four, one in eight a scalar, one in eight empty, one in
    four of one value. Numbers have any bits, strings any bytes; NaNs are quiet ones, see arrays."""
    dimensions = int(random.integers(0, 4)) if random.random() > 0.125 else 0
    shape = tuple(int(size) for size in random.integers(1, 5, dimensions))
    if shape and random.random() < 0.125:
        shape = (*shape[:-1], 0)
    count = int(np.prod(shape))
    if data_type is DataType.DT_STRING:
        array = np.empty(count, object)
        array[:] = [random.bytes(int(size)) for size in random.integers(0, 20, count)]
    else:
        dtype = ELEMENT_TYPES[data_type].array
        if dtype.kind == "b":
            array = random.integers(0, 2, count).astype(dtype)
        elif dtype.name in ("int2", "uint2", "int4", "uint4"):
            low, high = (0, 1 << int(dtype.name[-1])) if dtype.name[0] == "u" else _SIGNED[dtype.name]
            array = random.integers(low, high, count).astype(dtype)
        elif dtype.name.startswith("float4"):
            array = random.integers(0, 16, count).astype("u1").view(dtype)
        else:
            array = np.frombuffer(random.bytes(count * dtype.itemsize), dtype).copy()
        if dtype.kind in "fcV" and "int" not in dtype.name:
            with np.errstate(invalid="ignore"):
                array = np.where(np.isnan(array), dtype.type(np.nan), array)
    if count and random.random() < 0.25:
        array[:] = array[0]
    return array.reshape(shape)


def cut_short(proto: Any) -> Any:
    """The proto with its typed values cut off where they only repeat the one before: a reader repeats the
    last value for what is missing."""
    for field, values in proto.ListFields():
        if field.name.endswith("_val") and field.name not in ("scomplex_val", "dcomplex_val", "float8_val"):
            while len(values) > 1 and values[-1] == values[-2]:
                del values[-1]
    return proto


def with_content(array: np.ndarray[Any, Any], data_type: DataType) -> Any:
    """The official proto of an array that carries its memory."""
    proto = official(array.reshape(-1)[:0], data_type, typed=True)
    proto.tensor_shape.Clear()
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_content = np.ascontiguousarray(array).tobytes()
    return proto


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
    if data_type.name.startswith("DT_FLOAT8") or data_type.name.startswith("DT_FLOAT4"):
        proto.float8_val = flat.tobytes()
        return proto
    getattr(proto, name).extend(values.tolist())
    return proto
