"""Where each key of a TOML document stands: tomllib gives values without lines, and an error needs its line.

Reads documents that tomllib has accepted, so it may be lax where that was strict. TOML 1.0: https://toml.io/en/v1.0.0
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Keys = tuple[str | int, ...]  # a path into the document; arrays by index from 0

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]*")  # numbers, booleans, dates: none holds these
# Closing quotes are not escaped; a multi-line string may end in up to five quotes.
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL),
    re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


class Lines:
    """The line of every key of a document, counted from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._at = 0
        self._arrays: dict[Keys, int] = {}  # arrays of tables and how many of each were opened
        self._found: dict[Keys, int] = {}
        self._document()

    def of(self, keys: Keys) -> int:
        """The line of a key, else of the nearest table around it; 0 is the document as a whole."""
        while keys and keys not in self._found:
            keys = keys[:-1]
        return self._found.get(keys, 0)

    # --- the document ---

    def _document(self) -> None:
        table: Keys = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Keys:
        """`[a.b]` or `[[a.b]]`; the path of the table that it opens."""
        start = self._at
        many = self._text.startswith("[[", start)
        self._at += 2 if many else 1
        path: Keys = ()
        names = self._names()
        for number, name in enumerate(names, start=1):
            path = (*path, name)
            self._note(path, start)
            if many and number == len(names):
                self._arrays[path] = self._arrays.get(path, 0) + 1
            if path in self._arrays:
                path = (*path, self._arrays[path] - 1)
                self._note(path, start)
        self._at += 2 if many else 1
        return path

    def _pair(self, table: Keys) -> None:
        """`a.b = value`"""
        start, path = self._at, table
        for name in self._names():
            path = (*path, name)
            self._note(path, start)
        self._at += 1  # the equals sign
        self._value(path)

    def _names(self) -> list[str]:
        """A dotted key, up to what ends it."""
        names = [self._name()]
        while self._text.startswith(".", self._skip(_SPACE)):
            self._at += 1
            names.append(self._name())
        return names

    def _name(self) -> str:
        start = self._skip(_SPACE)
        if self._text[start] not in "\"'":
            return self._text[start : self._skip(_BARE_KEY)]
        raw = self._text[start : self._string()]
        return str(tomllib.loads(f"key = {raw}")["key"])

    def _value(self, path: Keys) -> None:
        start = self._skip(_SPACE)
        opening = self._text[start : start + 1]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        elif opening in ('"', "'"):
            self._string()
        else:
            self._skip(_SCALAR)

    def _array(self, path: Keys) -> None:
        self._at += 1
        index = 0
        while self._text[self._skip(_BLANK)] != "]":
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1
            if self._text[self._skip(_BLANK)] == ",":
                self._at += 1
        self._at += 1

    def _inline_table(self, path: Keys) -> None:
        self._at += 1
        while self._text[self._skip(_BLANK)] != "}":
            self._pair(path)
            if self._text[self._skip(_BLANK)] == ",":
                self._at += 1
        self._at += 1

    def _string(self) -> int:
        for pattern in _STRINGS:
            if match := pattern.match(self._text, self._at):
                self._at = match.end()
                break
        return self._at

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return self._at

    def _note(self, path: Keys, at: int) -> None:
        self._found.setdefault(path, bisect_right(self._ends, at - 1) + 1)
