"""The status table and the header syntax."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import grpc  # type: ignore[import-untyped,unused-ignore]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.serving import errors
from libs.serving.status import MAX_MESSAGE_CHARS, Code, encode_message, grpc_code, http_status, parse_timeout

TREE = [cls for cls in errors.ServingError.__subclasses__() if cls.__module__ == errors.__name__]


def test_codes_are_grpcs() -> None:
    assert {code.name: code.value for code in Code} == {code.name: code.value[0] for code in grpc.StatusCode}


def test_the_table_is_total_and_names_agree() -> None:
    assert len(TREE) == 11
    for cls in TREE:
        assert grpc_code(cls("x")).name.replace("_", "") == cls.__name__.upper()
        assert 400 <= http_status(cls("x")) < 600
    assert (grpc_code(errors.ServingError()), http_status(errors.ServingError())) == (Code.UNKNOWN, 500)


def test_a_subclass_inherits_its_parents_status() -> None:
    class NoSuchVersion(errors.NotFound):
        pass

    assert (grpc_code(NoSuchVersion()), http_status(NoSuchVersion())) == (Code.NOT_FOUND, 404)


@given(st.text(max_size=200))
def test_a_message_survives_its_encoding(message: str) -> None:
    encoded = encode_message(message)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert unquote_to_bytes(encoded) == message.encode("utf-8", "replace")


def test_a_plain_message_is_itself_and_a_long_one_is_cut() -> None:
    assert encode_message("queue is full: 8 of 8") == b"queue is full: 8 of 8"
    assert encode_message("100 %\n") == b"100 %25%0A"
    assert encode_message("é") == b"%C3%A9"
    long = encode_message("x" * 10_000)
    assert len(long) == MAX_MESSAGE_CHARS
    assert long.endswith(b"x...")


@pytest.mark.parametrize(
    "value,seconds",
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"100m", 0.1),
        (b"5u", 5e-6),
        (b"99999999n", 0.099999999),
        (b"0S", 0),
    ],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b"123456789S", b" 1S", b"1 S", b"+1S"]
)
def test_bad_timeouts(value: bytes) -> None:
    with pytest.raises(ValueError, match="expected 1 to 8 digits and a unit"):
        parse_timeout(value)
