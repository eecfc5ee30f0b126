"""JSON as TensorFlow Serving reads it: its leniency, its texts.

Facts are from tensorflow_serving/util/json_tensor.cc. Numbers may be NaN, Infinity and -Infinity; what stands after
the document is ignored; strings need not be UTF-8; bytes are written as {"b64": "..."}.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import Any

from libs.serving.errors import InvalidArgument

Document = dict[str, Any]

BASE64 = "b64"
SIGNATURE_NAME = "signature_name"
_MOST_SHOWN = 256
"""Characters of a value in an error."""

_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_SPACE = re.compile(r"[ \t\n\r]*")
_BARE = re.compile(r'"(?:[^"\\]|\\.)*"|-?Inf(?:inity)?|-NaN', re.DOTALL)
"""Strings, and the words for numbers of which Python knows only the long ones."""

_REASONS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma or a closing bracket after a value.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Invalid control character at": "Invalid encoding in string.",
}
"""What TensorFlow Serving's parser says where Python's says this."""


def parse(body: bytes) -> Document:
    """The object that a request's body is.

    Raises:
        InvalidArgument: it is none; says where it goes wrong.
    """
    if not body:
        raise InvalidArgument("JSON Parse error: The document is empty")
    text = body.decode("utf-8-sig", "surrogateescape")
    try:
        document = _decoded(text)
    except RecursionError:
        raise InvalidArgument("JSON Parse error: The document is nested too deeply") from None
    except json.JSONDecodeError as error:
        reason = _REASONS.get(error.msg.rstrip(": "), error.msg)
        raise InvalidArgument(f"JSON Parse error: {reason} at offset: {error.pos}") from None
    except ValueError as error:  # a number of thousands of digits
        raise InvalidArgument(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise InvalidArgument(f"JSON Value: {shown(document)} Is not object")
    return document


def _decoded(text: str) -> object:
    start = _space(text)
    try:
        return _DECODER.raw_decode(text, start)[0]
    except json.JSONDecodeError as error:
        if not text.startswith(("Inf", "-Inf", "-NaN"), error.pos):
            raise
    plain = _BARE.sub(_plain_number, text)
    return _DECODER.raw_decode(plain, _space(plain))[0]


def _space(text: str) -> int:
    """Where the document begins."""
    space = _SPACE.match(text)
    return space.end() if space else 0


def _plain_number(found: re.Match[str]) -> str:
    token = found.group()
    if token.startswith('"'):
        return token
    if "N" in token:
        return "NaN"
    return "-Infinity" if token.startswith("-") else "Infinity"


def signature_name(document: Document) -> str:
    """The signature that a request names; "" when it names none. Raises InvalidArgument."""
    name = document.get(SIGNATURE_NAME, "")
    if not isinstance(name, str):
        raise InvalidArgument(
            f"JSON Value: {shown(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return name


def shown(value: object) -> str:
    """A value in an error, no more of it than somebody would read."""
    text = ""
    try:
        for part in _ENCODER.iterencode(value):
            text += part
            if len(text) >= _MOST_SHOWN:
                return text[:_MOST_SHOWN]
    except RecursionError:
        pass
    return text


def type_name(value: object) -> str:
    """The kind of a value in an error."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, str):
        return "String"
    if isinstance(value, list):
        return "Array"
    return "Object" if isinstance(value, dict) else "Number"


def is_base64(value: object) -> bool:
    """Whether a value is an object that stands for bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(BASE64), str)


def text_bytes(value: object) -> bytes:
    """The bytes of a string, or of an object that stands for some.

    Raises:
        InvalidArgument: it is neither, or its base64 is wrong.
    """
    if isinstance(value, str):
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise InvalidArgument("JSON Parse error: The surrogate pair in string is invalid.") from None
    if not is_base64(value):
        raise InvalidArgument(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    assert isinstance(value, dict)
    digits = "".join(value[BASE64].split()).rstrip("=")
    try:
        # The padding may be left out.
        return binascii.a2b_base64(digits + "=" * (-len(digits) % 4), strict_mode=True)
    except ValueError:
        raise InvalidArgument("Unable to base64 decode") from None
