"""MkDocs hook: lets pages of docs/ link to any file of the repository, as its readers on a code host need it.

A linked Markdown file outside docs/ (services/gateway/README.md) becomes a page of the site, and so do the files that
it links to in turn; another file (gateway.example.toml) becomes a page that shows it. Links are rewritten to these
pages. A link to what is not there is left as it is, and MkDocs, which is strict, fails on it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = "docs/"

# Code first, so that what looks like a link in it is passed over: a fenced block, a span, then [text](target#anchor).
_LINK = re.compile(
    r"^(?P<fence>[`~]{3,})[^\n]*\n.*?^(?P=fence)[ \t]*$"
    r"|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
    r"|\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)
_LANGUAGES = {
    ".go": "go",
    ".java": "java",
    ".js": "js",
    ".json": "json",
    ".md": "",
    ".proto": "proto",
    ".py": "python",
}
_LANGUAGES |= {".toml": "toml", ".txt": "", ".yaml": "yaml", ".yml": "yaml", "": "sh"}


def targets(markdown: str) -> list[str]:
    """Where the links of a page point, without anchors and addresses of the web."""
    found = [match["target"] for match in _LINK.finditer(markdown) if match["target"]]
    return [target for target in found if not re.match(r"[a-z]+:|/", target)]


def resolved(root: Path, origin: str, target: str) -> str | None:
    """The repository's file that a link in the file `origin` points to, a folder's README for a folder; None if none.

    Args:
        root: the repository.
        origin: a file by its path in it, such as docs/index.md.
        target: the link, relative to it.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    if path.startswith(".."):
        return None
    if (root / path).is_dir():
        path += "/README.md"
    return path if (root / path).is_file() else None


def page_of(path: str) -> str:
    """The site's source for a file of the repository: of docs/ itself, one's own page, or a page that shows it."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return path if path.endswith(".md") else path + ".md"


def linked_files(root: Path, start: list[str]) -> list[str]:
    """Files outside docs/ that these files link to, and those that these link to in turn; sorted."""
    found: set[str] = set()
    wanted = list(start)
    while wanted:
        origin = wanted.pop()
        for target in targets((root / origin).read_text(encoding="utf-8")):
            path = resolved(root, origin, target)
            if path is None or path in found or path.startswith(DOCS):
                continue
            found.add(path)
            if path.endswith(".md"):
                wanted.append(path)
    return sorted(found)


def shown(path: str, content: str) -> str:
    """A page that shows a file."""
    fence = "`" * max(3, *(1 + len(run) for run in re.findall(r"`+", content)), 0)
    language = _LANGUAGES.get(Path(path).suffix, "")
    return f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n{fence}{language}\n{content.rstrip()}\n{fence}\n"


def rewritten(markdown: str, root: Path, origin: str) -> str:
    """The page's text with its links to files of the repository pointing to their pages."""
    here = posixpath.dirname(page_of(origin))

    def replace(match: re.Match[str]) -> str:
        target = match["target"]
        path = resolved(root, origin, target) if target and target in targets(match[0]) else None
        if path is None:
            return match[0]
        return f"]({posixpath.relpath(page_of(path), here or '.')}{match['anchor'] or ''})"

    return _LINK.sub(replace, markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages for linked files."""
    root = _root(config)
    own = [DOCS + file.src_uri for file in files.documentation_pages()]
    for path in linked_files(root, own):
        content = (root / path).read_text(encoding="utf-8")
        text = content if path.endswith(".md") else shown(path, content)
        files.append(File.generated(config, page_of(path), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites a page's links."""
    root = _root(config)
    source = page.file.src_uri
    origins = (DOCS + source, source)
    origin = next((path for path in origins if (root / path).is_file()), None)
    return markdown if origin is None else rewritten(markdown, root, origin)


def _root(config: MkDocsConfig) -> Path:
    return Path(config.docs_dir).parent
