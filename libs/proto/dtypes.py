"""TensorFlow's element types and the numpy dtypes that stand for them here.

One rule for what numpy lacks: bfloat16, the 8-bit and 4-bit floats and the 4-bit and 2-bit integers are the
types of the `ml_dtypes` package (which TensorFlow brings) where it is installed. Without it bfloat16 is
float32, which holds every bfloat16 exactly, and the others are refused with a ProtoError that says so.
Quantized types (DT_QINT8 ...) are their plain integers: scale and zero point are not in the tensor.
DT_STRING is an object array of bytes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from libs.proto.wire import ProtoError


def _find_ml_dtypes() -> Any:
    try:
        return importlib.import_module("ml_dtypes")
    except ImportError:
        return None


class DataType(IntEnum):
    """tensorflow.DataType: the values that a tensor on the wire can have."""

    DT_FLOAT = 1
    DT_DOUBLE = 2
    DT_INT32 = 3
    DT_UINT8 = 4
    DT_INT16 = 5
    DT_INT8 = 6
    DT_STRING = 7
    DT_COMPLEX64 = 8
    DT_INT64 = 9
    DT_BOOL = 10
    DT_QINT8 = 11
    DT_QUINT8 = 12
    DT_QINT32 = 13
    DT_BFLOAT16 = 14
    DT_QINT16 = 15
    DT_QUINT16 = 16
    DT_UINT16 = 17
    DT_COMPLEX128 = 18
    DT_HALF = 19
    DT_RESOURCE = 20
    DT_VARIANT = 21
    DT_UINT32 = 22
    DT_UINT64 = 23
    DT_FLOAT8_E5M2 = 24
    DT_FLOAT8_E4M3FN = 25
    DT_FLOAT8_E4M3FNUZ = 26
    DT_FLOAT8_E4M3B11FNUZ = 27
    DT_FLOAT8_E5M2FNUZ = 28
    DT_INT4 = 29
    DT_UINT4 = 30
    DT_INT2 = 31
    DT_UINT2 = 32
    DT_FLOAT4_E2M1FN = 33


@dataclass(frozen=True, slots=True)
class ElementType:
    """How one DataType is stored.

    `wire` is the dtype of its elements as they lie in tensor_content, `array` the dtype that callers see
    (they differ for bfloat16 without ml_dtypes). `field` is the number of TensorProto's list of typed values.
    """

    data_type: DataType
    wire: np.dtype[Any]
    array: np.dtype[Any]
    field: int


# TensorProto's fields for typed values.
FLOAT_VAL, DOUBLE_VAL, INT_VAL, STRING_VAL, SCOMPLEX_VAL, INT64_VAL, BOOL_VAL = 5, 6, 7, 8, 9, 10, 11
DCOMPLEX_VAL, HALF_VAL, UINT32_VAL, UINT64_VAL, FLOAT8_VAL = 12, 13, 16, 17, 18

BFLOAT16_BITS = np.dtype("<u2")

_PLAIN: dict[DataType, tuple[str, int]] = {
    DataType.DT_FLOAT: ("<f4", FLOAT_VAL),
    DataType.DT_DOUBLE: ("<f8", DOUBLE_VAL),
    DataType.DT_INT32: ("<i4", INT_VAL),
    DataType.DT_UINT8: ("u1", INT_VAL),
    DataType.DT_INT16: ("<i2", INT_VAL),
    DataType.DT_INT8: ("i1", INT_VAL),
    DataType.DT_STRING: ("O", STRING_VAL),
    DataType.DT_COMPLEX64: ("<c8", SCOMPLEX_VAL),
    DataType.DT_INT64: ("<i8", INT64_VAL),
    DataType.DT_BOOL: ("?", BOOL_VAL),
    DataType.DT_UINT16: ("<u2", INT_VAL),
    DataType.DT_COMPLEX128: ("<c16", DCOMPLEX_VAL),
    DataType.DT_HALF: ("<f2", HALF_VAL),
    DataType.DT_UINT32: ("<u4", UINT32_VAL),
    DataType.DT_UINT64: ("<u8", UINT64_VAL),
    # Quantized types come after the plain ones: an int8 array is DT_INT8 unless the caller says otherwise.
    DataType.DT_QINT8: ("i1", INT_VAL),
    DataType.DT_QUINT8: ("u1", INT_VAL),
    DataType.DT_QINT32: ("<i4", INT_VAL),
    DataType.DT_QINT16: ("<i2", INT_VAL),
    DataType.DT_QUINT16: ("<u2", INT_VAL),
}

_FROM_ML_DTYPES: dict[DataType, tuple[str, int]] = {
    DataType.DT_BFLOAT16: ("bfloat16", HALF_VAL),
    DataType.DT_FLOAT8_E5M2: ("float8_e5m2", FLOAT8_VAL),
    DataType.DT_FLOAT8_E4M3FN: ("float8_e4m3fn", FLOAT8_VAL),
    DataType.DT_FLOAT8_E4M3FNUZ: ("float8_e4m3fnuz", FLOAT8_VAL),
    DataType.DT_FLOAT8_E4M3B11FNUZ: ("float8_e4m3b11fnuz", FLOAT8_VAL),
    DataType.DT_FLOAT8_E5M2FNUZ: ("float8_e5m2fnuz", FLOAT8_VAL),
    DataType.DT_INT4: ("int4", INT_VAL),
    DataType.DT_UINT4: ("uint4", INT_VAL),
    DataType.DT_INT2: ("int2", INT_VAL),
    DataType.DT_UINT2: ("uint2", INT_VAL),
    DataType.DT_FLOAT4_E2M1FN: ("float4_e2m1fn", FLOAT8_VAL),
}


def _element_types() -> dict[int, ElementType]:
    ml_dtypes = _find_ml_dtypes()
    known = {
        data_type: ElementType(data_type, np.dtype(name), np.dtype(name), field)
        for data_type, (name, field) in _PLAIN.items()
    }
    for data_type, (name, field) in _FROM_ML_DTYPES.items():
        scalar = getattr(ml_dtypes, name, None)
        if scalar is not None:
            known[data_type] = ElementType(data_type, np.dtype(scalar), np.dtype(scalar), field)
        elif data_type == DataType.DT_BFLOAT16:
            known[data_type] = ElementType(data_type, BFLOAT16_BITS, np.dtype("<f4"), field)
    return {int(data_type): element for data_type, element in known.items()}


ELEMENT_TYPES = _element_types()

# The first DataType of a dtype wins: DT_INT8 before DT_QINT8, DT_FLOAT before a bfloat16 that is float32.
_BY_ARRAY_DTYPE: dict[np.dtype[Any], ElementType] = {}
for _element in ELEMENT_TYPES.values():
    _BY_ARRAY_DTYPE.setdefault(_element.array, _element)


def element_type(data_type: int) -> ElementType:
    """The ElementType of a tensorflow.DataType number. Raises ProtoError for those without a numpy dtype."""
    found = ELEMENT_TYPES.get(data_type)
    if found is not None:
        return found
    try:
        name = DataType(data_type).name
    except ValueError:
        if data_type == 0:
            raise ProtoError("the tensor has no dtype (DT_INVALID)") from None
        raise ProtoError(f"{data_type} is not the number of a tensor's dtype") from None
    if data_type in _FROM_ML_DTYPES:
        raise ProtoError(f"{name} tensors need the ml_dtypes package (a version that has the type)")
    raise ProtoError(f"{name} tensors hold handles of their process and have no elements to read")


def element_type_of(dtype: np.dtype[Any]) -> ElementType:
    """The ElementType that `dtype` travels as. Raises ProtoError when there is none."""
    if dtype.kind in "SU":
        return ELEMENT_TYPES[DataType.DT_STRING]
    found = _BY_ARRAY_DTYPE.get(dtype) or _BY_ARRAY_DTYPE.get(dtype.newbyteorder("="))
    if found is None:
        raise ProtoError(f"no tensor dtype for numpy's {dtype}")
    return found


def bfloat16_to_float32(bits: np.ndarray[Any, np.dtype[np.uint16]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """bfloat16 bit patterns (uint16) as the float32 numbers that they are the upper half of."""
    return (bits.astype("<u4") << np.uint32(16)).view("<f4")


def float32_to_bfloat16(
    values: np.ndarray[Any, np.dtype[np.float32]],
) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """float32 numbers rounded to bfloat16 (to nearest, ties to even), as bit patterns (uint16)."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    # Adding just under half of the dropped part, and one more where the kept part is odd, carries into it
    # exactly when rounding up is due. A NaN could carry into infinity, so it gets a quiet NaN's bits.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(BFLOAT16_BITS)
