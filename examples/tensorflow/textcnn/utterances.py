"""The labelled utterances that textcnn is trained on, and their split."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_name("utterances.tsv")

HELD_OUT_EVERY = 5
"""Every fifth line of each intent in each language is held out: 20 %, and all groups are represented."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of utterances.tsv."""

    intent: str
    language: str
    text: str


def read(path: Path = PATH) -> list[Utterance]:
    """Read a tab-separated file with the columns intent, language, text.

    Raises:
        ValueError: a line lacks a column, is empty in one, or repeats an earlier text. Says which line.
    """
    rows: list[Utterance] = []
    seen: dict[str, int] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if next(reader, None) != ["intent", "language", "text"]:
            raise ValueError(f"{path.name}:1: expected the header intent, language, text")
        for line, fields in enumerate(reader, start=2):
            if len(fields) != 3 or not all(field.strip() for field in fields):
                raise ValueError(f"{path.name}:{line}: expected intent, language and text, got {fields!r}")
            row = Utterance(*fields)
            if row.text in seen:
                raise ValueError(
                    f"{path.name}:{line}: repeats the text of line {seen[row.text]}: {row.text!r}"
                )
            seen[row.text] = line
            rows.append(row)
    return rows


def split(rows: list[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Divide into (training, held-out) by position within each intent and language, always the same way."""
    train: list[Utterance] = []
    held_out: list[Utterance] = []
    position: dict[tuple[str, str], int] = {}
    for row in rows:
        group = (row.intent, row.language)
        position[group] = position.get(group, 0) + 1
        (train if position[group] % HELD_OUT_EVERY else held_out).append(row)
    return train, held_out


def intents(rows: list[Utterance]) -> list[str]:
    """The intents in order of first appearance: the order of the model's output units."""
    return list(dict.fromkeys(row.intent for row in rows))
