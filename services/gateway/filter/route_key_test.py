"""The filter's key parser against a plain reading of the wire format, over messages valid, damaged and cut."""

from __future__ import annotations

import random
import re
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.proto import messages
from services.gateway.filter.testing import Kind, RouteKey, Verdict, task_of_digits, verdict_of
from services.gateway.testing import field_bytes, varint

MAX_TASK = 2**31 - 1
MAX_FIELDS = 65_536
PATHS = {
    Kind.NAME: (1,),
    Kind.SPEC: (1, 1),
    Kind.TASKS: (1, 1, 1),
    Kind.META: (2,),
    Kind.FEEDBACK: (1, 2),
}
TAGGED = (Kind.META, Kind.FEEDBACK)


# --- the plain reading ---


class MalformedError(Exception):
    pass


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count in range(10):
        if at + count >= len(data):
            raise MalformedError
        byte = data[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value & (2**64 - 1), at + count + 1
    raise MalformedError


def fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, wire type and value, one after the other: what comes after a fault is reached only after it."""
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if tag >= 2**32 or number == 0 or wire in (3, 4, 6, 7):
            raise MalformedError
        if wire == 0:
            _, end = read_varint(data, at)
        elif wire == 2:
            length, at = read_varint(data, at)
            end = at + length
        else:
            end = at + (8 if wire == 1 else 4)
        if end > len(data):
            # The start of a message that is longer than what holds it is malformed as a whole.
            raise MalformedError
        yield number, wire, data[at:end]
        at = end


def digits(text: bytes) -> int:
    if not re.fullmatch(rb"0*[1-9][0-9]{0,9}", text):
        return 0
    return int(text) if int(text) <= MAX_TASK else 0


def named(task: int) -> tuple[Verdict, int]:
    return (Verdict.FOUND, task) if task else (Verdict.NOT_A_TASK, 0)


def of_name(name: bytes) -> tuple[Verdict, int]:
    if len(name) <= 64:
        found = re.fullmatch(rb"(?:.*-)?([0-9]+)", name, re.DOTALL)
    else:  # the id is looked for in the last 64 bytes
        found = re.fullmatch(rb".*-([0-9]+)", name[-64:], re.DOTALL)
    return named(digits(found[1]) if found else 0)


def of_value(value: bytes, task: int) -> int:
    for number, wire, content in fields(value):
        if number == 2 and wire == 1:
            (double,) = struct.unpack("<d", content)
            task = int(double) if 1 <= double <= MAX_TASK and double == int(double) else 0
        elif number == 3 and wire == 2:
            task = digits(content) if len(content) <= 64 else 0
        elif (number in (1, 4) and wire == 0) or (number in (5, 6) and wire == 2):
            task = 0
    return task


def of_meta(meta: bytes) -> tuple[Verdict, int]:
    seen, task = False, 0
    for number, wire, entry in fields(meta):
        if (number, wire) != (2, 2):
            continue
        matches, value = False, 0
        for part, part_wire, content in fields(entry):
            if part == 1 and part_wire == 2:
                matches = content == b"taskId"
            elif part == 2 and part_wire == 2:
                value = of_value(content, value)
        if matches:
            seen, task = True, value
    return named(task) if seen else (Verdict.ABSENT, 0)


def plainly(kind: Kind, message: bytes) -> tuple[Verdict, int]:
    """The verdict on a whole message."""
    try:
        for step in PATHS[kind]:
            message = next(value for number, wire, value in fields(message) if (number, wire) == (step, 2))
    except StopIteration:
        return Verdict.ABSENT, 0
    except MalformedError:
        return Verdict.MALFORMED, 0
    try:
        return of_meta(message) if kind in TAGGED else of_name(message)
    except MalformedError:
        return Verdict.MALFORMED, 0


# --- messages ---


def sample(rng: random.Random, kind: Kind) -> bytes:
    """A message as callers send it, with other fields around and unusual values among the usual."""
    name = rng.choice(
        ("textcnn-69", "69", "a", "", "a-0", "x" * rng.randrange(100) + "-7", "中-2147483647", "-2147483648")
    )
    if kind in TAGGED:
        seldon = messages.SeldonMessage()
        if rng.random() < 0.7:
            seldon.data.tensor.shape.extend([1, 3])
            seldon.data.tensor.values.extend([0.5, 1.5, 2.5])
        seldon.meta.puid = "p" * rng.randrange(20)
        for tag in rng.sample(["a", "taskId", "taskid", "TaskId", "zz"], rng.randrange(1, 5)):
            value = seldon.meta.tags[tag]
            rng.choice(
                (
                    lambda v: setattr(v, "number_value", rng.choice((69.0, 0.5, -1.0, 2147483647.0, 1e300))),
                    lambda v: setattr(v, "string_value", rng.choice(("69", "007", "x", "", "9" * 70))),
                    lambda v: setattr(v, "bool_value", True),
                    lambda v: v.list_value.values.add(),
                )
            )(value)
        body: bytes = seldon.SerializeToString()
        return field_bytes(1, body) if kind == Kind.FEEDBACK else body
    if kind == Kind.NAME:
        infer = messages.ModelInferRequest(
            model_name=name, id="1", raw_input_contents=[bytes(rng.randrange(40))]
        )
        return bytes(infer.SerializeToString())
    request = messages.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = "s"
    request.inputs["x"].float_val.extend([1.0, 2.0])
    body = request.SerializeToString()
    return field_bytes(1, body) if kind == Kind.TASKS else body


def split(rng: random.Random, data: bytes) -> list[bytes]:
    """Into pieces of any size, empty ones among them."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 2, 5, len(data)))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def agree(rng: random.Random, kind: Kind, message: bytes) -> Verdict:
    expected = plainly(kind, message)
    # What is nested is read as it comes, so a fault behind an answer is not reached, and one before it is: the plain
    # reading cuts out a field before it looks inside, and so never disagrees.
    assert verdict_of(kind, message) == expected, (kind, message.hex())
    assert verdict_of(kind, message, split(rng, message)) == expected, (kind, message.hex())
    return expected[0]


@pytest.mark.parametrize("kind", list(Kind))
def test_messages_whole_cut_and_damaged(kind: Kind) -> None:
    rng, seen = random.Random(69 + kind), set()
    for _ in range(120):
        message = sample(rng, kind)
        seen.add(agree(rng, kind, message))
        for length in range(0, len(message), 1 if len(message) < 200 else 7):
            agree(rng, kind, message[:length])
        for _ in range(100):  # 12,000 for every kind
            damaged = bytearray(message)
            for _ in range(rng.randint(1, 4)):
                if not damaged:
                    break
                at = rng.randrange(len(damaged))
                how = rng.randrange(4)
                if how == 0:
                    damaged[at] = rng.randrange(256)
                elif how == 1:
                    damaged[at] ^= 1 << rng.randrange(8)
                elif how == 2:
                    del damaged[at : at + rng.randint(1, 4)]
                else:
                    damaged[at:at] = rng.randbytes(rng.randint(1, 4))
            seen.add(agree(rng, kind, bytes(damaged)))
    assert seen >= {Verdict.FOUND, Verdict.ABSENT, Verdict.NOT_A_TASK, Verdict.MALFORMED}


@given(kind=st.sampled_from(Kind), data=st.binary(max_size=60), seed=st.integers(0, 1000))
@settings(max_examples=1500, deadline=None)
def test_noise(kind: Kind, data: bytes, seed: int) -> None:
    agree(random.Random(seed), kind, data)


FIELD = st.one_of(
    st.tuples(st.integers(1, 6), st.binary(max_size=12)).map(lambda f: field_bytes(*f)),
    st.tuples(st.integers(1, 6), st.integers(0, 2**64 - 1)).map(lambda f: varint(f[0] << 3) + varint(f[1])),
    st.tuples(st.integers(1, 6), st.floats()).map(lambda f: varint(f[0] << 3 | 1) + struct.pack("<d", f[1])),
    st.tuples(st.integers(1, 6), st.binary(min_size=4, max_size=4)).map(
        lambda f: varint(f[0] << 3 | 5) + f[1]
    ),
    st.sampled_from(
        [field_bytes(1, b"taskId"), field_bytes(3, b"69"), varint(2 << 3 | 1) + struct.pack("<d", 7.0)]
    ),
)
NESTED = st.recursive(
    st.lists(FIELD, max_size=3).map(b"".join),
    lambda inner: st.lists(
        st.one_of(FIELD, st.tuples(st.integers(1, 3), inner).map(lambda f: field_bytes(*f))), max_size=4
    ).map(b"".join),
    max_leaves=12,
)


@given(kind=st.sampled_from(Kind), message=NESTED, seed=st.integers(0, 1000))
@settings(max_examples=1500, deadline=None)
def test_messages_of_any_shape(kind: Kind, message: bytes, seed: int) -> None:
    agree(random.Random(seed), kind, message)


VALUE = st.lists(
    st.one_of(
        st.sampled_from([1, 4]).map(lambda number: varint(number << 3) + b"\x00"),
        st.one_of(st.integers(-2, MAX_TASK + 2).map(float), st.floats()).map(
            lambda number: varint(2 << 3 | 1) + struct.pack("<d", number)
        ),
        st.text("0123456789", max_size=12).map(lambda text: field_bytes(3, text.encode())),
        st.sampled_from([5, 6]).map(lambda number: field_bytes(number, b"")),
    ),
    max_size=3,
).map(b"".join)
ENTRY = st.lists(
    st.one_of(
        st.sampled_from([b"taskId", b"taskid", b"a"]).map(lambda key: field_bytes(1, key)),
        VALUE.map(lambda value: field_bytes(2, value)),
    ),
    max_size=4,
).map(b"".join)
META = st.lists(
    st.one_of(ENTRY.map(lambda entry: field_bytes(2, entry)), st.just(field_bytes(1, b"puid"))), max_size=4
).map(b"".join)


@given(meta=META)
@settings(max_examples=1500, deadline=None)
def test_tags_are_read_as_protobuf_reads_them(meta: bytes) -> None:
    body = field_bytes(2, meta)
    tags = messages.SeldonMessage.FromString(body).meta.tags
    if "taskId" not in tags:
        assert verdict_of(Kind.META, body) == (Verdict.ABSENT, 0)
        return
    value = tags["taskId"]
    text = value.string_value if value.WhichOneof("kind") == "string_value" else ""
    number = value.number_value if value.WhichOneof("kind") == "number_value" else 0.0
    whole = int(number) if 1 <= number <= MAX_TASK and number == int(number) else 0
    assert verdict_of(Kind.META, body) == named(digits(text.encode()) or whole)


# --- what is promised ---


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (b"", 0),
        (b"0", 0),
        (b"1", 1),
        (b"0069", 69),
        (b"2147483647", MAX_TASK),
        (b"2147483648", 0),
        (b"99999999999", 0),
        (b"0" * 60 + b"5", 5),
        (b"6 9", 0),
        (b"-1", 0),
        ("六九".encode(), 0),
    ],
)
def test_task_ids(text: bytes, task: int) -> None:
    assert task_of_digits(text) == task == digits(text)


@pytest.mark.parametrize("kind", list(Kind))
def test_the_answer_comes_as_soon_as_the_key_does(kind: Kind) -> None:
    """No byte after the name, or after meta, is waited for."""
    tags = field_bytes(2, field_bytes(1, b"taskId") + field_bytes(2, field_bytes(3, b"69")))
    inner = tags if kind in TAGGED else b"textcnn-69"
    for step in reversed(PATHS[kind]):
        inner = field_bytes(step, inner)
    key = RouteKey(kind, len(inner) + (1 << 30))
    for byte in inner[:-1]:
        assert key.feed(bytes([byte])) == Verdict.MORE
    # The end of meta is where its length says, and nothing needs to follow.
    assert key.feed(inner[-1:]) == Verdict.FOUND
    assert key.task == 69
    assert key.feed(b"\xff" * 100) == Verdict.FOUND


def test_a_name_of_any_length_is_read_at_its_end() -> None:
    name = b"x" * 10_000_000 + b"-69"
    assert verdict_of(Kind.NAME, field_bytes(1, name)) == (Verdict.FOUND, 69)
    key = RouteKey(Kind.NAME, 11_000_000)
    key.feed(field_bytes(1, b"a\x00\xe4\xb8" + b"y" * 100 + b"tail"))
    assert key.explain().endswith("yyytail' does not end in a task id; name the model like textcnn-69")
    assert len(key.explain()) < 200


@pytest.mark.parametrize(
    ("kind", "message", "said"),
    [
        (Kind.NAME, b"", "the request has no model_name"),
        (Kind.SPEC, field_bytes(1, b""), "the request has no model_spec.name"),
        (Kind.TASKS, b"", "the request has no tasks[0].model_spec.name"),
        (
            Kind.META,
            field_bytes(2, b""),
            "the request has no meta.tags['taskId']; set it to the task's number",
        ),
        (Kind.NAME, b"\x00", "the request is not a valid protobuf message"),
        (
            Kind.NAME,
            field_bytes(1, "é\n'x".encode()),
            "model_name '???'x' does not end in a task id; name the model like textcnn-69",
        ),
        (
            Kind.META,
            field_bytes(2, field_bytes(2, field_bytes(1, b"taskId"))),
            "meta.tags['taskId'] is not a task id; send a whole number or a string of digits",
        ),
    ],
)
def test_what_is_said(kind: Kind, message: bytes, said: str) -> None:
    key = RouteKey(kind, len(message))
    key.feed(message)
    assert key.explain() == said
    for room in range(len(said)):
        assert key.explain(room) == said[:room]


def test_work_is_bounded_by_fields() -> None:
    field = varint(9 << 3) + b"\x00"
    late = field_bytes(1, b"a-69")
    assert verdict_of(Kind.NAME, field * (MAX_FIELDS - 1) + late) == (Verdict.FOUND, 69)
    key = RouteKey(Kind.NAME, len(field) * MAX_FIELDS + len(late))
    assert key.feed(field * MAX_FIELDS + late) == Verdict.TOO_COMPLEX
    assert "x-dl-task" in key.explain()


def test_what_is_not_needed_is_passed_over() -> None:
    message = field_bytes(4, bytes(16_000_000)) + field_bytes(2, b"")
    began = time.perf_counter()
    assert verdict_of(Kind.META, message)[0] == Verdict.ABSENT
    copied = time.perf_counter() - began
    assert copied < 3.0


@pytest.mark.parametrize("length", [2**31, 2**32 - 1])
def test_lengths_near_the_limits_of_integers(length: int) -> None:
    key = RouteKey(Kind.NAME, length)
    assert key.feed(varint(9 << 3 | 2) + varint(2**32 - 1)) == Verdict.MALFORMED
    key = RouteKey(Kind.NAME, length)
    assert key.feed(varint(9 << 3 | 2) + varint(2**64 - 1)) == Verdict.MALFORMED
    key = RouteKey(Kind.NAME, length)
    assert key.feed(varint(9 << 3 | 2) + varint(length - 6) + bytes(1000)) == Verdict.MORE
