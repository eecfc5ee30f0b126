from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.tf_serving.config.inspection import describe, find, inspect
from services.tf_serving.model.versions import ModelError


def test_models_are_found_at_any_depth_and_what_is_none_is_passed_over(models: Path, tmp_path: Path) -> None:
    for place in ("half/7", "half/10", "team/a/intents-5/7"):
        name = "intents" if "intents" in place else "half_plus_two"
        shutil.copytree(models / name / "7", tmp_path / place)
    shutil.copytree(models / "half_plus_two" / "7", tmp_path / "half" / "tmp-11")
    shutil.copytree(models / "half_plus_two" / "7", tmp_path / "stray")
    (tmp_path / "torch" / "1").mkdir(parents=True)
    (tmp_path / "torch" / "1" / "model.pth").touch()
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / ".hidden" / "1" / "saved_model.pb").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "half")
    found, strays = find(tmp_path)
    assert [(m.key, m.folder, [v.number for v in m.versions]) for m in found] == [
        ("half", "half", [7, 10]),
        ("linked", "linked", [7, 10]),
        ("team/a/intents-5", "intents-5", [7]),
    ]
    assert not any(version.problem for model in found for version in model.versions)
    assert [(stray.path, "move it into" in stray.problem) for stray in strays] == [(tmp_path / "stray", True)]
    assert [model.key for model in find(tmp_path / "half")[0]] == ["half"]
    with pytest.raises(ModelError, match="nowhere is no folder"):
        find(tmp_path / "nowhere")


def test_a_link_to_a_parent_is_not_followed(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "half_plus_two" / "7", tmp_path / "a" / "m" / "7")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert [model.key for model in find(tmp_path)[0]] == ["a/m"]


def test_a_name_that_is_no_text_is_told(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "half_plus_two" / "7", tmp_path / os.fsdecode(b"bad\xff") / "7")
    found, strays = find(tmp_path)
    assert found == [] and "must be UTF-8" in strays[0].problem


def test_signatures_are_read_from_the_file(models: Path, recipe: Callable[[str], Path]) -> None:
    version = inspect(7, models / "intents" / "7")
    assert list(version.signatures) == ["prediction"]
    assert describe(version.signatures["prediction"]) == (
        "label string [?], sentence string [?,4] -> output string [?,3], score float [?,3]"
    )
    text = inspect(7, recipe("half_plus_two_pbtxt"))
    binary = inspect(7, recipe("half_plus_two_cpu"))
    assert text.problem == binary.problem == ""
    assert {n: describe(s) for n, s in text.signatures.items()} == {
        n: describe(s) for n, s in binary.signatures.items()
    }
    assert describe(text.signatures["classify_x_to_y"]) == "inputs string [?] -> scores float [?,1]"


@pytest.mark.parametrize(
    ("name", "damage", "problem"),
    [
        ("half_plus_two", "saved_model.pb", "is not a SavedModel: it has no saved_model.pb"),
        ("half_plus_two", "variables/variables.index", "not whole: variables/variables.index is not there"),
        (
            "half_plus_two",
            "variables/variables.data-00000-of-00001",
            "variables.data-00000-of-00001 is not there",
        ),
        ("intents", "assets/intents.txt", "its graph reads assets/intents.txt, which is not there"),
    ],
)
def test_what_is_not_whole_is_told(
    models: Path, tmp_path: Path, name: str, damage: str, problem: str
) -> None:
    shutil.copytree(models / name / "7", tmp_path / "m" / "7")
    (tmp_path / "m" / "7" / damage).unlink()
    (model,) = find(tmp_path)[0]
    assert problem in model.versions[0].problem and str(tmp_path / "m" / "7") in model.versions[0].problem


def test_a_corrupt_file_and_one_without_signatures_are_told(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "m" / "7"
    shutil.copytree(models / "half_plus_two" / "7", path)
    (path / "saved_model.pb").write_bytes((path / "saved_model.pb").read_bytes()[:-9])
    assert "saved_model.pb is corrupt, or not a SavedModel" in inspect(7, path).problem
    tags = b"\x22\x05serve"
    info = b"\x0a" + bytes([len(tags)]) + tags
    (path / "saved_model.pb").write_bytes(b"\x12" + bytes([len(info)]) + info)
    assert "has no signature that can be called" in inspect(7, path).problem
    (path / "saved_model.pb").rename(path / "saved_model.pbtxt")
    (path / "saved_model.pbtxt").write_text("meta_graphs { what: 1 }")
    assert "saved_model.pbtxt is corrupt" in inspect(7, path).problem
