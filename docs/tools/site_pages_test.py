from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from docs.tools import site_pages
from docs.tools.site_pages import linked_files, page_of, resolved, rewritten, shown, targets

PAGE = """\
[guide](../svc/README.md#start), [file](../svc/example.toml), [folder](../svc), ![plot](plot.svg), [web](https://a.b/c).
`[code](../svc/none.md)` and

```md
[fenced](../svc/none.md)
```
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, content in {
        "docs/index.md": "# Home\n\n" + PAGE,
        "docs/plot.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "svc/README.md": "# Service\n\n## Start\n\n[home](../docs/index.md), [more](MORE.md)\n",
        "svc/MORE.md": "# More\n\n[back](README.md)\n",
        "svc/example.toml": "a = 1\n```\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content)
    return tmp_path


def test_links_are_found_outside_of_code() -> None:
    assert targets(PAGE) == ["../svc/README.md", "../svc/example.toml", "../svc", "plot.svg"]


def test_link_to_a_file_a_folder_and_nothing(root: Path) -> None:
    assert resolved(root, "docs/index.md", "../svc/example.toml") == "svc/example.toml"
    assert resolved(root, "docs/index.md", "../svc") == "svc/README.md"
    assert resolved(root, "docs/index.md", "../svc/none.md") is None
    assert resolved(root, "docs/index.md", "../../outside") is None


def test_pages_for_what_is_linked_and_for_what_that_links(root: Path) -> None:
    assert linked_files(root, ["docs/index.md"]) == ["svc/MORE.md", "svc/README.md", "svc/example.toml"]
    assert [page_of(path) for path in ("docs/index.md", "svc/MORE.md", "svc/example.toml")] == [
        "index.md",
        "svc/MORE.md",
        "svc/example.toml.md",
    ]


def test_links_point_to_the_pages(root: Path) -> None:
    text = rewritten(PAGE, root, "docs/index.md")
    assert "[guide](svc/README.md#start), [file](svc/example.toml.md), [folder](svc/README.md)" in text
    assert "![plot](plot.svg), [web](https://a.b/c)" in text
    assert "`[code](../svc/none.md)`" in text and "[fenced](../svc/none.md)" in text
    back = rewritten((root / "svc/README.md").read_text(), root, "svc/README.md")
    assert "[home](../index.md), [more](MORE.md)" in back


def test_a_shown_file_keeps_its_fences() -> None:
    assert "\n````toml\na = 1\n```\n````\n" in shown("svc/example.toml", "a = 1\n```\n")


def site(root: Path) -> Path:
    """Builds the site of `root` strictly, with this hook."""
    hook = Path(site_pages.__file__).as_posix()
    (root / "mkdocs.yml").write_text(
        json.dumps(
            {
                "site_name": "t",
                "strict": True,
                "use_directory_urls": False,
                "hooks": [hook],
                "nav": ["index.md"],
                "not_in_nav": "/svc/",
                "validation": {"links": {"anchors": "warn"}},
            }
        )
    )
    build(load_config(str(root / "mkdocs.yml")))
    return root / "site"


def test_the_site_has_every_page_and_no_broken_link(root: Path) -> None:
    made = site(root)
    pages = list(made.rglob("*.html"))
    assert {"index.html", "svc/MORE.html", "svc/index.html", "svc/example.toml.html"} <= {
        str(page.relative_to(made)) for page in pages
    }
    home = (made / "index.html").read_text()
    assert {"svc/index.html#start", "svc/example.toml.html"} <= set(re.findall(r'href="([^"]+)"', home))


@pytest.mark.parametrize("broken", ["[x](../svc/none.md)", "[x](../svc/README.md#none)", "[x](none.md)"])
def test_a_broken_link_fails_the_build(root: Path, broken: str) -> None:
    (root / "docs/index.md").write_text(f"# Home\n\n{broken}\n")
    with pytest.raises(Abort):
        site(root)
