"""A TOML text whose errors name file, line and field; tomllib keeps no positions, so lines are found in the text."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.torch_worker.config import ConfigError

Parser = Callable[[object], Any]
"""Makes a field's value of what TOML holds there; raises ValueError, which says what was expected."""

_HEADER = re.compile(r"\s*\[")


@dataclass(frozen=True, slots=True)
class TomlText:
    """A parsed document.

    Attributes:
        source: the file, for error messages.
        text: as it was read.
        values: what it holds.
    """

    source: Path
    text: str
    values: Mapping[str, Any]

    @staticmethod
    def parse(text: str, source: Path) -> TomlText:
        """Read a document. Raises ConfigError where it is no TOML."""
        try:
            return TomlText(source, text, tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            found = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
            line = int(found[1]) if found is not None else len(text.splitlines()) or 1
            raise ConfigError(f"{source}:{line}: not valid TOML: {error}") from error

    def error(self, table: str, key: str | None, problem: str, index: int | None = None) -> ConfigError:
        """The error of a field, of a whole table (key None), or of the index-th table of an array of tables."""
        field = table if index is None else f"{table}[{index}]"
        if key is not None:
            field += f".{key}"
        return ConfigError(f"{self.source}:{self._line(table, key, index)}: {field}: {problem}")

    def fields(self, table: str, parsers: Mapping[str, Parser]) -> dict[str, Any]:
        """The parsed fields of a table; none where the document does not have it.

        Raises:
            ConfigError: it is no table, or a field is unknown or wrong.
        """
        values = self.values.get(table, {})
        if not isinstance(values, dict):
            raise self.error(table, None, f"expected a table, [{table}]")
        return self._parsed(table, values, parsers, None)

    def each(self, table: str, parsers: Mapping[str, Parser]) -> list[dict[str, Any]]:
        """The parsed fields of an array of tables, [[table]].

        Raises:
            ConfigError: it is no array of tables, or a field is missing, unknown or wrong.
        """
        values = self.values.get(table, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.error(table, None, f"expected tables, each under a header [[{table}]]")
        found = []
        for index, value in enumerate(values):
            for key in parsers:
                if key not in value:
                    raise self.error(table, None, f"{key} is missing; it has {', '.join(parsers)}", index)
            found.append(self._parsed(table, value, parsers, index))
        return found

    def _parsed(
        self, table: str, values: Mapping[str, Any], parsers: Mapping[str, Parser], index: int | None
    ) -> dict[str, Any]:
        found = {}
        for key, value in values.items():
            parse = parsers.get(key)
            if parse is None:
                raise self.error(table, key, f"unknown field; known are {', '.join(parsers)}", index)
            try:
                found[key] = parse(value)
            except ValueError as error:
                raise self.error(table, key, f"{error}, got {value!r}", index) from error
        return found

    def _line(self, table: str, key: str | None, index: int | None) -> int:
        """Line, 1-based, of a key or else of its table; 1 where it is not found."""
        lines = self.text.splitlines()
        name = re.escape(table)
        header = re.compile(rf"""\s*\[\[?\s*["']?{name}["']?\s*\]""")
        headers = [n for n, line in enumerate(lines) if header.match(line)]
        start = headers[index or 0] if len(headers) > (index or 0) else None
        if key is None and start is not None:
            return start + 1
        dotted = rf"""(?:["']?{name}["']?\s*\.\s*)"""
        if start is None:  # `model.x = 1`, or `model = {x = 1}`
            wanted = re.compile(rf"""\s*(?:{dotted}["']?{re.escape(key or "")}|["']?{name}["']?\s*[=.])""")
            first = 0
        else:
            wanted = re.compile(rf"""\s*["']?{re.escape(key or "")}["']?\s*[=.]""")
            first = start + 1
        for n, line in enumerate(lines[first:], first):
            if wanted.match(line):
                return n + 1
            if start is not None and _HEADER.match(line):
                break
        return (start or 0) + 1
