"""Frames: what is accepted, and what is said about the rest."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.serving.errors import Internal, ResourceExhausted, ServingError, Unimplemented
from libs.serving.frames import expected_bytes, frame, trailing_bytes, unframe

LIMIT = 1000


def _compressed(data: bytes) -> bytes:
    return b"\x01" + len(data).to_bytes(4, "big") + data


@given(st.binary(max_size=LIMIT))
def test_a_frame_opens_to_its_message(message: bytes) -> None:
    assert unframe(frame(message), None, LIMIT) == message
    assert unframe(frame(message), b"gzip", LIMIT) == message
    assert unframe(_compressed(gzip.compress(message)), b"gzip", 2 * LIMIT) == message
    assert unframe(_compressed(zlib.compress(message)), b"deflate", 2 * LIMIT) == message


def test_the_bytes_on_the_wire() -> None:
    assert frame(b"abc") == b"\x00\x00\x00\x00\x03abc"
    assert expected_bytes(b"\x00\x00\x00\x01\x00", LIMIT) == 261


@given(st.binary(max_size=40), st.sampled_from([None, b"identity", b"gzip", b"deflate", b"snappy"]))
def test_any_bytes_give_a_message_or_a_serving_error(body: bytes, encoding: bytes | None) -> None:
    try:
        message = unframe(body, encoding, LIMIT)
    except ServingError as error:
        assert error.message
    else:
        assert len(message) <= LIMIT


@pytest.mark.parametrize(
    "body,encoding,error,match",
    [
        (b"", None, Internal, "no message"),
        (b"\x00\x00\x00", None, Internal, "3 bytes, expected at least a header of 5"),
        (b"\x02\x00\x00\x00\x00", None, Internal, "compressed-flag is 2"),
        (
            b"\x00\x00\x00\x00\x03ab",
            None,
            Internal,
            "announces 3 bytes of message, but the request ended after 2",
        ),
        (b"\x00\x00\x00\x00\x01ab", None, Internal, "1 or more bytes follow"),
        (frame(b"a") + frame(b"b"), None, Internal, "a unary call carries exactly one"),
        (
            b"\x00\x00\x00\x03\xe9" + bytes(1001),
            None,
            ResourceExhausted,
            "at most 1000 bytes, got 1001 bytes",
        ),
        (b"\x00\xff\xff\xff\xff", None, ResourceExhausted, "got 4294967295 bytes"),
        (_compressed(gzip.compress(b"a")), None, Internal, "grpc-encoding names no compression"),
        (_compressed(gzip.compress(b"a")), b"identity", Internal, "grpc-encoding names no compression"),
        (_compressed(b"a"), b"snappy", Unimplemented, "'snappy' is not supported: expected gzip or deflate"),
        (_compressed(b"no gzip"), b"gzip", Internal, "does not decompress as gzip"),
        (_compressed(gzip.compress(b"a")[:-3]), b"gzip", Internal, "cut short"),
        (_compressed(gzip.compress(b"a") + b"more"), b"gzip", Internal, "data follows its end"),
        (_compressed(gzip.compress(bytes(1001))), b"gzip", ResourceExhausted, "at most 1000 bytes"),
    ],
)
def test_what_is_said_of_a_bad_body(
    body: bytes, encoding: bytes | None, error: type[ServingError], match: str
) -> None:
    with pytest.raises(error, match=match):
        unframe(body, encoding, LIMIT)


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    bomb = _compressed(gzip.compress(bytes(200 << 20), compresslevel=9))
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ResourceExhausted):
            unframe(bomb, b"gzip", 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_trailing_bytes_are_counted() -> None:
    assert "7 or more bytes" in trailing_bytes(7).message
