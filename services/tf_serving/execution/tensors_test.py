from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.proto.dtypes import ELEMENT_TYPES, DataType
from libs.serving.errors import InvalidArgument
from services.tf_serving.execution import tensors
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.testing_arrays import PLAIN, QUANTIZED, arrays, bits, official


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
