"""One table of a TOML document, read key by key: each value is checked as it is taken, and what nobody took is unknown.

A value that is wrong is reported and read as if it were not there, so that everything else is still checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from libs.balancing.endpoint import Endpoint, EndpointError
from services.gateway.configfile_lines import Keys, Lines
from services.gateway.configuration_errors import ConfigError, nearest

E = TypeVar("E", bound=StrEnum)

_BARE = re.compile(r"[A-Za-z0-9_-]{1,60}")
_MAX_SHOWN = 60  # of a wrong value, in characters


class Errors:
    """What is wrong with one document, and the files that it wants read."""

    def __init__(self, path: Path, lines: Lines) -> None:
        self.path = path
        self.lines = lines
        self.found: list[ConfigError] = []
        self.files: list[tuple[Keys, Path]] = []

    def add(self, keys: Keys, problem: str, expected: str, hint: str = "") -> None:
        self.found.append(
            ConfigError(self.path, self.lines.of(keys), dotted(keys) or "file", problem, expected, hint)
        )


def dotted(keys: Keys) -> str:
    """`tasks.69.endpoints[2].weight`: array items count from 1, as people do."""
    text = ""
    for key in keys:
        text += f"[{key + 1}]" if isinstance(key, int) else f".{bare(key)}"
    return text.removeprefix(".")


def bare(key: str) -> str:
    """A key as it is where it is plain, else quoted."""
    return key if _BARE.fullmatch(key) else shown(key)


def shown(value: object) -> str:
    """A value as an error message quotes it."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > 10**20:
        return "a number far too large"  # which str() may refuse to write
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


class Section:
    """The values of one table. Each method returns None where the key is absent or wrong."""

    def __init__(self, values: Mapping[str, object], keys: Keys, errors: Errors) -> None:
        self.keys = keys
        self.errors = errors
        self._values = values
        self._known: set[str] = set()

    def says(self, key: str) -> bool:
        """True when the key is there, whatever its value."""
        return key in self._values

    def wrong(self, key: str, expected: str, hint: str = "") -> None:
        self.errors.add((*self.keys, key), f"is {shown(self._values[key])}", expected, hint)

    def take(self, key: str) -> object | None:
        self._known.add(key)
        return self._values.get(key)

    def finish(self) -> None:
        """Reports the keys that nobody took."""
        for key in self._values:
            if key not in self._known:
                self.errors.add(
                    (*self.keys, key), "is not known", "a key of this table", nearest(key, self._known)
                )

    # --- values ---

    def whole(self, key: str, low: int, high: int, unit: str) -> int | None:
        """A whole number; `unit` is what it counts."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        hint = ""
        if isinstance(value, str):
            digits = "".join(c for c in value if c.isascii() and c.isdigit())[:12]
            hint = f"write a bare number, without quotes and unit: {digits or low}"
        self.wrong(key, f"a whole number of {unit} from {low} to {high}", hint)
        return None

    def percent(self, key: str) -> float | None:
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, int | float) and _is_percent(value):
            return float(value)
        hint = "write a bare number: 5 is five in a hundred" if isinstance(value, str) else ""
        self.wrong(key, "percent: 0, or a number from 0.0001 to 100", hint)
        return None

    def flag(self, key: str) -> bool | None:
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return value
        self.wrong(key, "true or false", "without quotes" if isinstance(value, str) else "")
        return None

    def text(self, key: str, expected: str) -> str | None:
        """Text that is not empty."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value
        self.wrong(key, expected)
        return None

    def choice(self, key: str, kind: type[E]) -> E | None:
        value = self.take(key)
        if value is None:
            return None
        names = [item.value for item in kind]
        if isinstance(value, str) and value in names:
            return kind(value)
        hint = nearest(value.lower().replace("-", "_"), names) if isinstance(value, str) else ""
        self.wrong(
            key, "one of " + ", ".join(f'"{name}"' for name in names), "" if "there is" in hint else hint
        )
        return None

    def texts(self, key: str, expected: str) -> tuple[str, ...] | None:
        """A list of texts, each not empty; each once."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, list):
            self.wrong(
                key, expected, f"write a list: {key} = [{shown(value)}]" if isinstance(value, str) else ""
            )
            return None
        found: dict[str, None] = {}
        for index, item in enumerate(value):
            if isinstance(item, str) and item.strip() and item.isprintable():
                found[item] = None
            else:
                self.errors.add((*self.keys, key, index), f"is {shown(item)}", "text")
        return tuple(found)

    def file(self, key: str) -> Path | None:
        """The absolute path of a file, which is noted to be read."""
        text = self.text(key, "the path of a file")
        if text is None:
            return None
        path = absolute(text, self.errors.path)
        self.errors.files.append(((*self.keys, key), path))
        return path

    def endpoint(self, key: str) -> Endpoint | None:
        value = self.take(key)
        return None if value is None else self.parse_endpoint(value, (*self.keys, key))

    def endpoints(self, key: str, default_weight: int, max_weight: int) -> dict[Endpoint, int] | None:
        """A list of "host:port" and {address, weight}. One that is there and wrong is not None."""
        value = self.take(key)
        if value is None:
            return None
        expected = 'a list of "host:port" or { address = "host:port", weight = 100 }'
        if not isinstance(value, list) or not value:
            self.wrong(
                key, expected, f"write a list: {key} = [{shown(value)}]" if isinstance(value, str) else ""
            )
            return {}
        found: dict[Endpoint, int] = {}
        for index, item in enumerate(value):
            at = (*self.keys, key, index)
            weight = default_weight
            if isinstance(item, dict):
                section = Section(item, at, self.errors)
                if not section.says("address"):
                    self.errors.add(at, "has no address", 'address = "host:port"')
                endpoint = section.endpoint("address")
                weight = section.whole("weight", 1, max_weight, "parts") or default_weight
                section.finish()
            else:
                endpoint = self.parse_endpoint(item, at)
            if endpoint is None:
                continue
            if endpoint in found:
                self.errors.add(
                    at, f"{endpoint} is there twice", "each endpoint once", "remove one of the two"
                )
            found[endpoint] = weight
        return found

    def parse_endpoint(self, value: object, at: Keys) -> Endpoint | None:
        if not isinstance(value, str):
            self.errors.add(at, f"is {shown(value)}", '"host:port"')
            return None
        try:
            return Endpoint.parse(value.strip())
        except EndpointError as error:
            self.errors.add(at, str(error), error.expected, error.hint)
            return None

    # --- tables ---

    def section(self, key: str, expected: str = "a table") -> Section | None:
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, dict):
            return Section(value, (*self.keys, key), self.errors)
        self.wrong(key, expected)
        return None

    def sections(self, key: str) -> Iterator[tuple[str, Section]]:
        """The tables of a table, by name: `[key.name]`."""
        outer = self.section(key, f"tables: [{dotted((*self.keys, key))}.NAME]")
        if outer is None:
            return
        for name, value in outer._values.items():
            if isinstance(value, dict):
                yield name, Section(value, (*outer.keys, name), self.errors)
            else:
                outer.wrong(name, f"a table: [{dotted((*outer.keys, name))}]")


def _is_percent(value: float) -> bool:
    return not isinstance(value, bool) and (value == 0 or 0.0001 <= value <= 100)  # nan is not


def absolute(text: str, beside: Path) -> Path:
    """A path as a file writes it: relative to that file's folder."""
    return Path(beside.absolute().parent, text)
