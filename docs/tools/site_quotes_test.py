from __future__ import annotations

from pathlib import Path

import pytest

from docs.tools.site_quotes import missing, quotes, said_by

PAGE = """\
| message | from | why |
|---|---|---|
| `task … is not here`, `… is full: … wait` | gateway | not `this` |
| `Deadline Exceeded` | your gRPC library | |
| stream reset | gateway | no quote |
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, content in {
        "services/a.py": 'x = f"task {n} is not "\n    f"here"\n',
        "services/b.c": 'say("the queue is full: "\n    "%u rows wait");',
        "libs/a_test.py": '"only in a test"',
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content)
    return tmp_path


def test_quotes_of_servers_are_found() -> None:
    assert quotes(PAGE) == ["task … is not here", "… is full: … wait"]


def test_a_quote_is_found_piece_by_piece_over_joined_literals(root: Path) -> None:
    sources = said_by(root)
    assert [missing(quote, sources) for quote in quotes(PAGE)] == [[], []]


@pytest.mark.parametrize(
    ("quote", "piece"),
    [("task … is not there", "is not there"), ("only in a test", "only in a test"), ("… …", "… …")],
)
def test_what_no_source_says_is_missing(root: Path, quote: str, piece: str) -> None:
    assert missing(quote, said_by(root)) == [piece]
