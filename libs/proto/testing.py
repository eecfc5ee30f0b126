"""Helpers of this folder's tests: descriptor comparison, and messages written in unusual or broken ways."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from libs.proto.wire import ProtoError, fields, len_field, varint

# What a field is: number, type, label, type name, packed, oneof, JSON name.
FieldSchema = tuple[int, int, bool, str, str, str]


def message_schema(descriptor: Any) -> dict[str, dict[str, FieldSchema]]:
    """The fields of a message and of the messages nested in it: {full name: {field name: what it is}}."""
    own = {}
    for field in descriptor.fields:
        # FieldDescriptor.label is deprecated where is_repeated exists, which protobuf 3.20 does not have.
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        related = field.message_type or field.enum_type
        own[field.name] = (
            field.number,
            field.type,
            bool(repeated),
            related.full_name if related else "",
            field.containing_oneof.name if field.containing_oneof else "",
            field.json_name,
        )
    found = {descriptor.full_name: own}
    for nested in descriptor.nested_types:
        found |= message_schema(nested)
    return found


def enum_schema(descriptor: Any) -> dict[str, int]:
    """The values of an enum by name."""
    return {value.name: value.number for value in descriptor.values}


def nested_enums(descriptor: Any) -> dict[str, dict[str, int]]:
    """The enums inside a message and inside the messages nested in it, by full name."""
    found = {enum.full_name: enum_schema(enum) for enum in descriptor.enum_types}
    for nested in descriptor.nested_types:
        found |= nested_enums(nested)
    return found


def service_schema(descriptor: Any) -> dict[str, tuple[str, str]]:
    """A service's methods: {name: (request's full name, response's full name)}."""
    return {
        method.name: (method.input_type.full_name, method.output_type.full_name)
        for method in descriptor.methods
    }


def file_schema(descriptor: Any) -> dict[str, Mapping[str, Any]]:
    """Every message, enum and service of a file, by full name."""
    found: dict[str, Mapping[str, Any]] = {}
    for message in descriptor.message_types_by_name.values():
        found |= message_schema(message)
        found |= nested_enums(message)
    for enum in descriptor.enum_types_by_name.values():
        found[enum.full_name] = enum_schema(enum)
    for service in descriptor.services_by_name.values():
        found[service.full_name] = service_schema(service)
    return found


def assert_part_of(
    ours: Mapping[str, Mapping[str, Any]], official: Mapping[str, Any], left_out: Collection[str] = ()
) -> None:
    """Assert that every message, enum and service in `ours` is `official`'s, less the members in `left_out`.

    Enums may leave out values, which proto3 keeps as numbers.
    """
    for name, members in ours.items():
        theirs = {key: value for key, value in official[name].items() if key not in left_out}
        if any(isinstance(value, int) for value in theirs.values()):
            theirs = {key: value for key, value in theirs.items() if key in members}
        assert dict(members) == theirs, name


def scrambled(rng: random.Random, data: bytes, depth: int = 4, unknown: int = 1) -> bytes:
    """The message `data` with fields moved, repeated, dropped or unknown ones put in, also inside messages.

    What comes out is still well-formed, as far as bytes without a schema can tell: a parser accepts it, or
    rejects it for a string that is not UTF-8. Unknown fields are put into the outermost `unknown` levels
    only: parsers disagree about map entries that have some (upb drops the entry, Java and C++ keep it, as
    we do).
    """
    try:
        found = fields(data, 0, len(data))
    except ProtoError:
        return data
    records = []
    for tag, a, b in found:
        kind = tag & 7
        if kind == 0:
            records.append(varint(tag) + varint(a))
        elif kind == 2:
            inner = data[a:b]
            if depth and rng.random() < 0.6:
                inner = scrambled(rng, inner, depth - 1, unknown - 1)
            records.append(len_field(tag >> 3, inner))
        else:
            records.append(varint(tag) + data[a:b])
    change = rng.random()
    if change < 0.3:
        rng.shuffle(records)
    elif change < 0.5 and records:
        records.insert(rng.randrange(len(records) + 1), rng.choice(records))
    elif change < 0.6 and records:
        records.pop(rng.randrange(len(records)))
    elif change < 0.8 and unknown > 0:
        records.insert(rng.randrange(len(records) + 1), rng.choice(_UNKNOWN_RECORDS))
    return b"".join(records)


_UNKNOWN_RECORDS = [
    varint(1000 << 3) + varint(12345678901),
    varint(1000 << 3 | 1) + bytes(8),
    varint(1001 << 3 | 5) + bytes(4),
    len_field(1002, b"anything"),
    # a group with a varint and another group inside
    varint(1003 << 3 | 3) + b"\x08\x01" + varint(7 << 3 | 3) + varint(7 << 3 | 4) + varint(1003 << 3 | 4),
]


def broken(rng: random.Random, data: bytes) -> bytes:
    """`data` with a few bytes changed, cut off, doubled or put in."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        change = rng.randrange(4)
        at = rng.randrange(len(out) + 1)
        if change == 0 and out:
            out[at % len(out)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif change == 1:
            del out[at : at + rng.randint(1, 8)]
        elif change == 2:
            out[at:at] = out[at : at + rng.randint(1, 16)]
        else:
            junk = (rng.choice((0x80, 0xFF, 0x0A, rng.randrange(256))) for _ in range(rng.randint(1, 11)))
            out[at:at] = bytes(junk)
    return bytes(out)


def canonical(value: Any) -> Any:
    """A Python value as text that tells 1 from 1.0 and from True, makes NaN equal NaN and sorts mappings."""
    if isinstance(value, dict):
        return sorted((key, canonical(item)) for key, item in value.items())
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return repr(value)


def assert_same(ours: Any, theirs: Any) -> None:
    """Arrays of one dtype, shape and content, or equal Python values; NaN equals NaN."""
    if not isinstance(theirs, np.ndarray):
        assert canonical(ours) == canonical(theirs)
        return
    assert isinstance(ours, np.ndarray)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    if theirs.dtype == object:
        assert canonical(ours.tolist()) == canonical(theirs.tolist())
    else:
        floats = theirs.dtype.kind in "fc"
        assert ours.tobytes() == theirs.tobytes() or np.array_equal(ours, theirs, equal_nan=floats)
