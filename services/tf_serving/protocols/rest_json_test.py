from __future__ import annotations

import math

import pytest

from libs.serving.errors import InvalidArgument
from services.tf_serving.protocols.rest_json import (
    is_base64,
    parse,
    shown,
    signature_name,
    text_bytes,
    type_name,
)


def test_what_tensorflow_serving_reads_beyond_json() -> None:
    body = b' \r\n\t{"a": [NaN, Infinity, -Infinity, Inf, -Inf, -NaN, "Inf -NaN \\" Inf"], "b": 1e-3}X'
    values = parse(body)["a"]
    assert [math.isnan(value) for value in (values[0], values[5])] == [True, True]
    assert values[1:5] == [math.inf, -math.inf, math.inf, -math.inf]
    assert values[6] == 'Inf -NaN " Inf'
    assert parse(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"  ", "JSON Parse error: Invalid value. at offset: 2"),
        (b"instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
        (b'{"a": [1, }', "JSON Parse error: Invalid value. at offset: 10"),
        (b'{"a": [1, Infin]}', "JSON Parse error: Missing a comma or a closing bracket after a value. at offset: "),
        (b"{a: 1}", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b'{"a" 1}', "JSON Parse error: Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": "b', "JSON Parse error: Missing a closing quotation mark in string. at offset: 6"),
        (b'{"a": "\\x"}', "JSON Parse error: Invalid escape character in string. at offset: 7"),
        (b'{"a": "\n"}', "JSON Parse error: Invalid encoding in string. at offset: 7"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON Parse error: Exceeds the limit"),
        (b'{"a": ' + b"[" * 500_000, "JSON Parse error: The document is nested too deeply"),
        (b"[1, 2]", "JSON Value: [1, 2] Is not object"),
        (b"3", "JSON Value: 3 Is not object"),
    ],
)  # fmt: skip
def test_what_is_no_request(body: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(body)
    assert caught.value.message.startswith(text)


def test_the_name_of_the_signature() -> None:
    assert signature_name({}) == "" and signature_name({"signature_name": "a"}) == "a"
    with pytest.raises(
        InvalidArgument, match=r"^JSON Value: .* 'signature_name' key must be a string value\.$"
    ):
        signature_name({"signature_name": 100})


def test_values_are_shown_short() -> None:
    assert shown({"é": [1, None]}) == '{"é": [1, null]}'
    assert len(shown(["x"] * 1_000_000)) == 256
    kinds: list[object] = [None, True, False, "", [], {}, 1, 1.0]
    assert [type_name(kind) for kind in kinds] == [
        *("Null", "True", "False", "String", "Array", "Object", "Number", "Number")
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("héllo", "héllo".encode()),
        ("", b""),
        ({"b64": "aGVsbG8="}, b"hello"),
        ({"b64": "aGVsbG8"}, b"hello"),
        ({"b64": " aGVs\nbG8 = "}, b"hello"),
        ({"b64": "+/+/"}, b"\xfb\xff\xbf"),
        ({"b64": ""}, b""),
    ],
)
def test_strings_and_bytes(value: object, expected: bytes) -> None:
    assert text_bytes(value) == expected


def test_bytes_that_are_no_text_stay_as_they_are() -> None:
    assert text_bytes(parse(b'{"a": "\xff\x00\\u0000"}'.replace(b"\x00", b""))["a"]) == b"\xff\x00"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b64": "a"}, "Unable to base64 decode"),
        ({"b64": "aGVsbG8%"}, "Unable to base64 decode"),
        ({"b64": "aG=VsbG8"}, "Unable to base64 decode"),
        ({"b64": "é"}, "Unable to base64 decode"),
        ({"b64": 1}, 'JSON Value: {"b64": 1} not formatted correctly for base64 data'),
        ({"b64": "", "c": ""}, 'JSON Value: {"b64": "", "c": ""} not formatted correctly for base64 data'),
        ("\ud800", "JSON Parse error: The surrogate pair in string is invalid."),
    ],
)
def test_what_is_neither(value: object, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        text_bytes(value)
    assert caught.value.message == text
    assert is_base64(value) == text.startswith("Unable")
