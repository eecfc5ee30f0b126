from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.proto.messages import ListValue, SeldonMessage
from libs.proto.seldon import (
    DataKind,
    decode_message,
    encode_message,
)
from libs.proto.testing import assert_same
from libs.proto.testing_seldon import check_decoding, python_value
from libs.proto.wire import ProtoError, len_field

PROPERTY = settings(max_examples=300, deadline=None)


@pytest.mark.parametrize(("links", "accepted"), [(49, True), (50, False), (3_000, False)])
def test_nesting_is_bound_as_protobuf_bounds_it(links: int, accepted: bool) -> None:
    # As a list in a list in a list ...; the generated class accepts and refuses the same.
    value = b"\x20\x01"
    for _ in range(links):
        value = len_field(6, len_field(1, value))
    data = len_field(6, value)
    assert parses(data) == accepted
    if accepted:
        check_decoding(SeldonMessage, data)
    else:
        with pytest.raises(ProtoError, match="nested deeper than 100"):
            decode_message(data)


@pytest.mark.parametrize(("links", "accepted"), [(33, True), (34, False)])
def test_nesting_of_structs_is_bound_as_protobuf_bounds_it(links: int, accepted: bool) -> None:
    value = b"\x20\x01"
    for _ in range(links):
        value = len_field(5, len_field(1, len_field(2, value)))
    data = len_field(6, value)
    assert parses(data) == accepted
    if not accepted:
        with pytest.raises(ProtoError, match="nested deeper than 100"):
            decode_message(data)


def test_deep_number_lists_are_bound_too() -> None:
    for links in range(46, 52):
        value = b"\x11" + bytes(8)
        for _ in range(links):
            value = len_field(6, len_field(1, value))
        for data in (len_field(6, value), len_field(3, len_field(3, len_field(1, value)))):
            try:
                SeldonMessage.FromString(data)
            except Exception:
                with pytest.raises(ProtoError, match="nested deeper"):
                    decode_message(data)
            else:
                decode_message(data)


def parses(data: bytes) -> bool:
    try:
        SeldonMessage.FromString(data)
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    ("payload", "dtype"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], "f8"),
        ([1.0, "a"], "U"),
        (["a", "一"], "U"),
        ([True, False], "?"),
        ([1.0, None], "O"),
        ([], "f8"),
        ([[1.0] * 3] * 300, "f8"),
        ([[1.0, 2.0], [True, 4.0]], "f8"),
        ([[[1.0], [2.0]], [[3.0], [4.0]]], "f8"),
    ],
)
def test_ndarray_decodes_as_numpy_reads_nested_lists(payload: list[Any], dtype: str) -> None:
    lists = ListValue()
    lists.extend(payload)
    data = SeldonMessage(data={"ndarray": lists}).SerializeToString()
    check_decoding(SeldonMessage, data)
    decoded = decode_message(data).payload
    assert decoded.dtype.kind == np.dtype(dtype).kind
    assert_same(decoded, np.array(payload))
    assert (
        decode_message(encode_message(DataKind.NDARRAY, payload)).payload.tolist()
        == np.array(payload).tolist()
    )


def test_ragged_ndarray_is_refused() -> None:
    lists = ListValue()
    for row in ([1.0], [1.0, 2.0]):
        lists.add_list().extend(row)
    with pytest.raises(ProtoError, match="do not form an array"):
        decode_message(SeldonMessage(data={"ndarray": lists}).SerializeToString())


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=20,
)


@PROPERTY
@given(JSON_VALUES)
def test_json_round_trip(value: Any) -> None:
    data = encode_message(DataKind.JSON, value)
    message = SeldonMessage.FromString(data)
    assert python_value(message.jsonData) == value
    assert decode_message(data).payload == value
    assert decode_message(message.SerializeToString()).payload == value


def test_json_takes_numpy_results() -> None:
    value = {
        "class": np.int64(3),
        "p": np.float32(0.5),
        "all": np.array([[1, 2], [3, 4]]),
        "ok": np.bool_(True),
        "t": (1,),
    }
    decoded = decode_message(encode_message(DataKind.JSON, value)).payload
    assert decoded == {"class": 3.0, "p": 0.5, "all": [[1.0, 2.0], [3.0, 4.0]], "ok": True, "t": [1.0]}
    assert decoded["ok"] is True


def test_values_without_a_json_form_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value, message in (
        (b"bytes", "cannot put a bytes"),
        ({1: 2}, "the key 1 is a int"),
        (endless, "nested deeper than 100"),
        (10**400, "does not fit a double"),
        ("\ud800", "UTF-8"),
    ):
        with pytest.raises(ProtoError, match=message):
            encode_message(DataKind.JSON, value)
