from __future__ import annotations

from pathlib import Path

import pytest

from services.tf_serving.model.versions import ModelError, Version, latest, scan


def make(base: Path, *names: str) -> None:
    for name in names:
        (base / name).mkdir(parents=True)
        (base / name / "saved_model.pb").write_bytes(b"")


def test_versions_are_numbers_in_numeric_order(tmp_path: Path) -> None:
    make(tmp_path, "10", "9", "002", "latest", "-1", "1.5", "٣", ".7-tmp", str(2**63))
    (tmp_path / "3").write_text("a file is no version")
    assert scan(tmp_path) == [
        Version(2, tmp_path / "002"),
        Version(9, tmp_path / "9"),
        Version(10, tmp_path / "10"),
    ]
    assert latest(tmp_path).number == 10


def test_of_two_spellings_the_first_in_order_of_name_counts(tmp_path: Path) -> None:
    make(tmp_path, "1", "01")
    assert scan(tmp_path) == [Version(1, tmp_path / "01")]


def test_a_linked_version_folder_counts(tmp_path: Path) -> None:
    make(tmp_path, "store/abc")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "5").symlink_to(tmp_path / "store" / "abc")
    assert latest(tmp_path / "base").number == 5


def test_a_missing_folder_a_file_and_an_empty_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could not find the model base path"):
        latest(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="is a file"):
        latest(tmp_path / "file")
    with pytest.raises(ModelError, match="no versions of the model.*as a number"):
        latest(tmp_path)


def test_a_saved_model_without_a_version_folder_gets_the_cure(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ModelError, match=f"move it into {tmp_path}/1"):
        latest(tmp_path)


def test_a_version_without_a_graph_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "1")
    (tmp_path / "2").mkdir()
    with pytest.raises(
        ModelError, match="2 is not a SavedModel: it has no saved_model.pb or saved_model.pbtxt"
    ):
        latest(tmp_path)
