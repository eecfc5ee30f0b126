from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from examples.tensorflow.textcnn import utterances


def test_the_data_covers_eight_intents_in_both_languages() -> None:
    rows = utterances.read()
    groups = Counter((row.intent, row.language) for row in rows)
    assert len(rows) >= 360
    assert len(utterances.intents(rows)) == 8
    assert {language for _, language in groups} == {"zh", "en"}
    assert min(groups.values()) >= 20 and len(groups) == 16


def test_the_split_keeps_every_line_once_and_holds_out_a_fifth_of_each_group() -> None:
    rows = utterances.read()
    train, held_out = utterances.split(rows)
    assert sorted(train + held_out, key=repr) == sorted(rows, key=repr)
    assert {(row.intent, row.language) for row in held_out} == {(row.intent, row.language) for row in rows}
    assert 0.15 < len(held_out) / len(rows) < 0.25


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("greeting\ten\thello\n", ":1: expected the header"),
        ("intent\tlanguage\ttext\ngreeting\thello\n", ":2: expected intent, language and text"),
        ("intent\tlanguage\ttext\ngreeting\ten\t \n", ":2: expected intent, language and text"),
        ("intent\tlanguage\ttext\na\ten\thi\nb\ten\thi\n", ":3: repeats the text of line 2"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, body: str, complaint: str) -> None:
    path = tmp_path / "broken.tsv"
    path.write_text(body, encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        utterances.read(path)
