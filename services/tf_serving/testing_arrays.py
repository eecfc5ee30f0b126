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
