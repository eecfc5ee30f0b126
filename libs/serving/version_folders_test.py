from __future__ import annotations

import os
from pathlib import Path

from libs.serving.version_folders import look, scan


def put(file: Path, text: str = "x") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def versions(folder: Path) -> list[int]:
    return sorted(scan(folder, is_model=lambda path: (path / "model").is_file()))


def test_versions_are_folders_with_numbers(tmp_path: Path) -> None:
    for name in ("1", "007", "12", "x1", ".3", "-4", "1.5", "²", str(2**63)):
        put(tmp_path / name / "model")
    put(tmp_path / "20")
    assert versions(tmp_path) == [1, 7, 12]


def test_a_model_itself_is_version_1_whatever_else_it_holds(tmp_path: Path) -> None:
    put(tmp_path / "model")
    put(tmp_path / "5" / "data")
    assert versions(tmp_path) == [1]


def test_no_folder_no_versions(tmp_path: Path) -> None:
    assert versions(tmp_path / "none") == []


def test_every_way_to_change_a_file_shows(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "model"
    put(file, "old")
    before = look(tmp_path)
    assert look(tmp_path) == before
    status = file.stat()
    put(tmp_path / "new", "OLD")
    os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(tmp_path / "new", file)
    replaced = look(tmp_path)
    assert replaced != before, "same size and time, another file"
    put(file, "older")
    assert look(tmp_path) != replaced


def test_content_is_what_counts(tmp_path: Path) -> None:
    put(tmp_path / "model.pth")
    before = look(tmp_path, lambda name: name.endswith(".pth"))
    for name in ("run.log", ".hidden", "__pycache__/net.pyc"):
        put(tmp_path / name)
    after = look(tmp_path, lambda name: name.endswith(".pth"))
    assert after.content == before.content
    assert {name for name, *_ in after.files} == {"model.pth", "run.log"}


def test_a_switched_link_is_another_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / name / "model")
    link = tmp_path / "1"
    link.symlink_to("a")
    before = look(link)
    assert before.path == (tmp_path / "a").resolve()
    link.unlink()
    link.symlink_to("b")
    assert look(link).path == (tmp_path / "b").resolve() and look(link).content != before.content


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    put(tmp_path / "model")
    (tmp_path / "again").symlink_to(".")
    assert ("model" in {name for name, *_ in look(tmp_path).files}) and len(look(tmp_path).files) < 20
