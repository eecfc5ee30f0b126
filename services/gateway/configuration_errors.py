"""What is wrong with a configuration, in the one form that every part of it reports."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MAX_PART = 400


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One thing wrong with one file. `line` counts from 1; 0 means the file as a whole."""

    path: Path
    line: int
    field: str
    problem: str
    expected: str
    hint: str = ""

    def render(self) -> str:
        """`path:line: field: problem; expected ...; hint: ...`, a form that editors can jump to."""
        where = f"{self.path}:{self.line}" if self.line else str(self.path)
        text = f"{where}: {_short(self.field)}: {_short(self.problem)}; expected {self.expected}"
        return f"{text}; hint: {_short(self.hint)}" if self.hint else text


def _short(text: str) -> str:
    """Values come from files, and may be of any length."""
    return text if len(text) <= _MAX_PART else f"{text[: _MAX_PART - 40]} ... {text[-35:]}"


class ConfigInvalid(Exception):  # noqa: N818 (a state of the files, it carries many errors)
    """The configuration cannot be used. `errors` holds everything that is wrong with it, in file and line order.

    `files` are the files that were looked at: an edit of any of them may mend it.
    """

    def __init__(self, errors: Iterable[ConfigError], files: Iterable[Path] = ()) -> None:
        self.errors = list(errors)
        self.files = frozenset(files)
        super().__init__(f"{len(self.errors)} error(s)")


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint that names the one of `words` that was probably meant, else all of them (a few of many)."""
    known = sorted(words)
    if not known:
        return ""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    shown = ", ".join(known[:20])
    return f"there is: {shown}" + (", ..." if len(known) > 20 else "")
