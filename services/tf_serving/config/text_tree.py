"""Protobuf's text format as a tree of fields with their lines, and every field that does not fit a message.

google.protobuf's parser stops at the first thing that it cannot read; this one is for telling all of them at once.
The language: https://protobuf.dev/reference/protobuf/textformat-spec/.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<word>[\w.+-]+)|(?P<sign>.)""",
    re.DOTALL,
)
_CLOSING = {"{": "}", "<": ">"}
_TRUTHS = ("true", "True", "t", "1", "false", "False", "f", "0")
_INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|[0-9]+)")
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something wrong at a place. `field` is its path, `model_config_list.config[1].name`; "" for the whole file."""

    line: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its value as it is written, or the fields of the message that it is."""

    name: str
    line: int
    value: str = ""
    fields: tuple[Field, ...] | None = None


class TextError(ValueError):
    """The text is not in the text format from some line on."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def parse(text: str) -> tuple[Field, ...]:
    """The fields of a text. Raises TextError."""
    return tuple(_Reader(text).fields(None))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A text's fields held against a message.

    Attributes:
        mistakes: every field that does not fit, in order of lines.
        lines: of the fields that do, by path.
        text: those fields alone, for google.protobuf's parser.
    """

    mistakes: tuple[Mistake, ...]
    lines: dict[str, int]
    text: str

    def line(self, field: str) -> int:
        """Where a field stands; one that is missing stands nowhere, what it is missing from does."""
        while field and field not in self.lines:
            field = field[: max(field.rfind("."), field.rfind("["), 0)]
        return self.lines.get(field, 1)


def fit(fields: Sequence[Field], message: Any) -> Fitted:
    """Hold the fields against a message's Descriptor."""
    mistakes: list[Mistake] = []
    lines: dict[str, int] = {}
    text = "\n".join(_fit(fields, message, "", mistakes, lines))
    return Fitted(tuple(sorted(mistakes, key=lambda mistake: mistake.line)), lines, text)


def _fit(
    fields: Sequence[Field], message: Descriptor, inside: str, mistakes: list[Mistake], lines: dict[str, int]
) -> Iterator[str]:
    counts: dict[str, int] = {}
    choices: dict[str, Field] = {}
    for field in fields:
        path = f"{inside}.{field.name}" if inside else field.name
        known = message.fields_by_name.get(field.name)
        if known is None:
            mistakes.append(Mistake(field.line, path, _unknown(field.name, message)))
            continue
        count = counts[field.name] = counts.get(field.name, -1) + 1
        if _repeated(known):
            path = f"{path}[{count}]"
        elif count:
            first = lines.get(path, field.line)
            mistakes.append(Mistake(field.line, path, f"is given again, first on line {first}"))
            continue
        if known.containing_oneof is not None:
            other = choices.setdefault(known.containing_oneof.name, field)
            if other is not field:
                why = f"is given beside {other.name} on line {other.line}: expected one of the two"
                mistakes.append(Mistake(field.line, path, why))
                continue
        problem = _problem(field, known)
        if problem:
            mistakes.append(Mistake(field.line, path, problem))
            continue
        lines[path] = field.line
        lines.setdefault(path.removesuffix(f"[{count}]"), field.line)
        kind = known.message_type
        if field.fields is None or kind is None:
            yield f"{field.name}: {field.value}"
        elif kind.full_name == "google.protobuf.Any":
            yield f"{field.name} {{}}"
        else:
            inner = _fit(field.fields, kind, path, mistakes, lines)
            yield f"{field.name} {{\n{chr(10).join(inner)}\n}}"


def _unknown(name: str, message: Descriptor) -> str:
    names = list(message.fields_by_name)
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"
    return f"{message.name} has no field {name!r}: {hint}"


def _repeated(field: FieldDescriptor) -> bool:
    return field.is_repeated


def _problem(field: Field, known: Any) -> str:
    if known.message_type is not None:
        if field.fields is None:
            names = ", ".join(known.message_type.fields_by_name)
            return f"is a message with {names or 'no field'}: expected {{ ... }}, got {field.value}"
        return ""
    if field.fields is not None:
        return f"is {_expected(known)}: expected {field.name}: VALUE, got {{ ... }}"
    if known.enum_type is not None:
        values = list(known.enum_type.values_by_name)
        good = field.value in values or bool(_INTEGER.fullmatch(field.value))
        return "" if good else f"expected one of {', '.join(values)}, got {field.value}"
    if known.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        good = field.value[:1] in ('"', "'")
    elif known.type == FieldDescriptor.TYPE_BOOL:
        good = field.value in _TRUTHS
    else:
        good = bool(_INTEGER.fullmatch(field.value)) and _in_range(field.value, known.type)
    return "" if good else f"expected {_expected(known)}, got {field.value}"


def _in_range(value: str, kind: int) -> bool:
    number = int(value, 0) if not re.fullmatch("-?0[0-7]+", value) else int(value, 8)
    if kind == FieldDescriptor.TYPE_UINT32:
        return 0 <= number < 1 << 32
    if kind == FieldDescriptor.TYPE_INT32:
        return -(1 << 31) <= number < 1 << 31
    return -(1 << 63) <= number < 1 << 63


def _expected(known: Any) -> str:
    if known.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return "a text in quotes"
    return "true or false" if known.type == FieldDescriptor.TYPE_BOOL else "a whole number"


class _Reader:
    """Reads tokens to fields."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def fields(self, closing: str | None) -> Iterator[Field]:
        """Fields up to the closing sign, or to the end."""
        while True:
            token, line = self._next()
            if not token:
                if closing is None:
                    return
                raise TextError(line, f"the text ends where {closing} is expected")
            if token == closing:
                return
            if token in (",", ";"):
                continue
            yield from self._field(token, line)

    def _field(self, token: str, line: int) -> Iterator[Field]:
        name = token
        if token == "[":  # an extension, or the type of an Any
            while (part := self._next()[0]) not in ("]", ""):
                name += part
            name += "]"
        elif not _NAME.fullmatch(token):
            raise TextError(line, f"expected a field's name, got {token}")
        colon = self._peek() == ":"
        if colon:
            self._next()
        if self._peek() == "[":
            self._next()
            while self._peek() != "]":
                yield self._value(name, line, colon)
                if self._peek() == ",":
                    self._next()
            self._next()
        else:
            yield self._value(name, line, colon)

    def _value(self, name: str, line: int, colon: bool) -> Field:
        token, at = self._next()
        if token in _CLOSING:
            return Field(name, line, fields=tuple(self.fields(_CLOSING[token])))
        if not colon:
            raise TextError(at, f"expected : or {{ after {name}, got {token or 'the end'}")
        if not token or token in "}>]:,;[":
            raise TextError(at, f"expected a value of {name}, got {token or 'the end'}")
        if token in ('"', "'"):
            raise TextError(at, f"the text of {name} has no closing quote on its line")
        if token[0] in "\"'":
            while self._peek()[:1] in ('"', "'") and len(self._peek()) > 1:
                token += " " + self._next()[0]
        return Field(name, line, token)

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _next(self) -> tuple[str, int]:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "space":
            yield match.group(), line
        line += match.group().count("\n")
    yield "", line
