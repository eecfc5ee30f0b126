"""Metadata over header fields."""

from __future__ import annotations

import pytest

from libs.serving.headers import Metadata, check_metadata, header_fields


def test_metadata_is_what_the_caller_sent() -> None:
    metadata = Metadata(
        [
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"grpc-timeout", b"1S"),
            (b"x-dl-task", b"69"),
            (b"x-many", b"a"),
            (b"x-many", b"b"),
            (b"x-odd", b"\xff"),
        ]
    )
    assert dict(metadata) == {"x-dl-task": "69", "x-many": "a,b", "x-odd": "\xff"}
    assert metadata["x-dl-task"] == metadata.get("x-dl-task") == "69"
    assert "te" not in metadata
    assert len(metadata) == 3
    with pytest.raises(KeyError):
        metadata["nope"]


def test_nothing_is_hidden_from_plain_http() -> None:
    assert dict(Metadata([(b"te", b"x")], hidden=frozenset())) == {"te": "x"}


def test_response_metadata() -> None:
    assert check_metadata({"X-Model-Version": "3"}) == [("x-model-version", "3")]
    assert header_fields({"x-empty": ""}) == [(b"x-empty", b"")]


@pytest.mark.parametrize(
    "name,value", [("", "x"), ("grpc-message", "x"), ("x\n", "x"), ("x", "\r"), ("x", "\x7f")]
)
def test_refused_response_metadata(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="response metadata"):
        check_metadata({name: value})
