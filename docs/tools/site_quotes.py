"""MkDocs hook: the messages that the troubleshooting page quotes are those of the sources.

A quote is the code in the first cell of a table's row; an ellipsis in it stands for what differs from call to call.
The rows of the caller's own gRPC library are not looked up. A quote that the sources do not have is a warning, which
fails a strict build.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.quotes")

PAGE = "troubleshooting.md"
FOLDERS = ("libs", "services")
ELSEWHERE = "your gRPC library"
# Shorter pieces are in any source.
SHORTEST = 4

_ROW = re.compile(r"^\| (?P<said>.*?`) \| (?P<who>[^|]+) \|", re.MULTILINE)
# Between two literals that the compiler joins.
_JOIN = re.compile(r'"\s*(?:[rf]{0,2})"')


def quotes(page: str) -> list[str]:
    """The messages of the servers that a page quotes."""
    rows = [match for match in _ROW.finditer(page) if match["who"].strip() != ELSEWHERE]
    return [said for match in rows for said in re.findall(r"`([^`]+)`", match["said"])]


def missing(quote: str, sources: str) -> list[str]:
    """The pieces of a quote that the sources do not have; the whole quote if it is of none long enough."""
    pieces = [piece.strip(" '\"();:…") for piece in quote.split("…")]
    pieces = [piece for piece in pieces if len(piece) >= SHORTEST]
    return [piece for piece in pieces if piece not in sources] if pieces else [quote]


def said_by(root: Path) -> str:
    """The text of all sources but tests, with the parts of a literal joined."""
    return _JOIN.sub("", "\n".join(path.read_text(encoding="utf-8") for path in _sources(root)))


def _sources(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".c", ".py") and not path.name.endswith(("_test.py", "_pb2.py")):
                yield path


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Compares the page's quotes with the sources; changes nothing."""
    if page.file.src_uri == PAGE:
        sources = said_by(Path(config.docs_dir).parent)
        for quote in quotes(markdown):
            for piece in missing(quote, sources):
                log.warning("%s quotes %r, but no source says %r", PAGE, quote, piece)
    return markdown
