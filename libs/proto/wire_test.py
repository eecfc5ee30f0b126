from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.proto import packed, wire
from libs.proto.wire import ProtoError, fields, len_field, varint

PROPERTY = settings(max_examples=300, deadline=None)
UINT64 = st.integers(0, 2**64 - 1) | st.integers(0, 300)


@PROPERTY
@given(UINT64)
def test_varints_round_trip(value: int) -> None:
    data = varint(value)
    assert wire.read_varint(data + b"\xff", 0) == (value, len(data))
    assert len(data) == max(1, -(-value.bit_length() // 7))


def test_signed_numbers() -> None:
    assert wire.to_int64(wire.read_varint(varint(-1), 0)[0]) == -1
    assert wire.to_int64(2**63 - 1) == 2**63 - 1
    assert wire.to_int32(wire.read_varint(varint(-(2**31)), 0)[0]) == -(2**31)
    assert wire.to_int32(2**32 + 5) == 5
    assert varint(-1) == b"\xff" * 9 + b"\x01"


def test_bits_past_the_64th_are_dropped() -> None:
    assert wire.read_varint(b"\xff" * 9 + b"\x7f", 0) == (2**64 - 1, 10)
    with pytest.raises(ProtoError, match="more than 10 bytes"):
        wire.read_varint(b"\x80" * 10 + b"\x00", 0)


def test_fields_of_every_wire_type_are_listed_with_their_places() -> None:
    data = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x02hi" + b"\x25" + bytes(4) + b"\xfa\x01\x00"
    assert fields(data, 0, len(data)) == [
        (1 << 3, 150, 3),
        (2 << 3 | 1, 4, 12),
        (3 << 3 | 2, 14, 16),
        (4 << 3 | 5, 17, 21),
        (31 << 3 | 2, 24, 24),
    ]
    assert fields(memoryview(data), 3, 12) == [(2 << 3 | 1, 4, 12)]


def test_groups_are_skipped() -> None:
    group = b"\x0b\x10\x01\x19" + bytes(8) + b"\x22\x01x\x2d" + bytes(4) + b"\x33\x34\x0c"
    assert fields(group + b"\x08\x05", 0, len(group) + 2) == [(8, 5, len(group) + 2)]
    deep = b"\x0b" * 5000 + b"\x0c" * 5000
    with pytest.raises(ProtoError, match="groups nested deeper than 100"):
        fields(deep, 0, len(deep))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08", "cut off"),
        (b"\x08\x80", "cut off"),
        (b"\x11" + bytes(7), "should end at byte 9"),
        (b"\x25\x00", "should end at byte 5"),
        (b"\x0a\x05abc", "field 1 claims 5 bytes from byte 2, but its message ends at byte 5"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "the limit is 2147483647"),
        (b"\x07", "no field can have the tag 7|wire type 7"),
        (b"\x00\x00", "no field can have the tag 0"),
        (b"\x80\x80\x80\x80\x10\x00", "no field can have the tag"),
        (b"\x0c", "unexpected wire type 4 of field 1"),
        (b"\x0b\x08\x01", "group 1 has no end"),
        (b"\x0b\x14", "unexpected wire type 4 of field 2 in a group"),
        (b"\x0b\x0a\x7f\x0c", "cut off|no end|should end"),
        (b"\x0b\x03\x00\x0c", "no field can have the tag 3"),
    ],
)
def test_malformed_messages_are_refused(data: bytes, message: str) -> None:
    for tail in (b"", b"\x08\x01\x08\x01\x08\x01\x08\x01\x08\x01"):
        # What follows the message in its buffer must not be read as its part.
        with pytest.raises(ProtoError, match=None if tail else message):
            fields(data + tail, 0, len(data))


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.binary(max_size=300)), max_size=8))
def test_written_fields_are_read_back(items: list[tuple[int, bytes]]) -> None:
    data = b"".join(len_field(number, payload) for number, payload in items)
    assert [(tag >> 3, data[a:b]) for tag, a, b in fields(data, 0, len(data))] == items


def test_collected_fields_are_left_out() -> None:
    data = b"\x0a\x01a\x10\x07\x0a\x01b\x12\x01c"
    collected: list[wire.Buffer] = []
    assert fields(data, 0, len(data), 0x0A, collected) == [(0x10, 7, 5), (0x12, 10, 11)]
    assert collected == [b"a", b"b"]


@PROPERTY
@given(st.lists(UINT64, max_size=80), st.integers(0, 3))
def test_varint_lists_in_any_arrangement(values: list[int], single: int) -> None:
    data = b"".join(b"\x08" + varint(value) for value in values[:single])
    data += len_field(1, b"".join(map(varint, values[single:])))
    found = fields(data, 0, len(data))
    array = packed.varint_array(data, found, 1)
    assert array.dtype == np.uint64
    assert array.tolist() == values
    assert packed.varint_list(data, found, 1) == values


@pytest.mark.parametrize("length", [3, 40])
def test_varint_lists_that_end_inside_a_number(length: int) -> None:
    body = b"\x01" * length + b"\x80"
    data = len_field(1, body) + b"\x01"
    found = fields(data, 0, len(data) - 1)
    for read in (packed.varint_array, packed.varint_list):
        with pytest.raises(ProtoError, match="stops inside a number"):
            read(data, found, 1)
    data = len_field(1, b"\x80" * 40 + b"\x01")
    with pytest.raises(ProtoError, match="more than 10 bytes"):
        packed.varint_array(data, fields(data, 0, len(data)), 1)
    only = len_field(1, b"\x80" * 30)
    with pytest.raises(ProtoError, match="stops inside a number"):
        packed.varint_array(only, fields(only, 0, len(only)), 1)


def test_range_checks_name_the_value() -> None:
    values = np.array([1, 255], np.uint32)
    assert packed.check_range(values, np.dtype("u1"), "UINT8").tolist() == [1, 255]
    with pytest.raises(ProtoError, match="the value 256 does not fit UINT8, which holds 0 to 255"):
        packed.check_range(values + 1, np.dtype("u1"), "UINT8")
