from __future__ import annotations

from pathlib import Path

import pytest

from services.torch_worker.config import ConfigError
from services.torch_worker.model.folder import is_model_folder, open_folder
from services.torch_worker.model.model_config import ModelConfig


def test_finds_the_parts(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"x")
    bare = open_folder(tmp_path)
    assert (bare.path, bare.model_file, bare.processor_file) == (tmp_path, tmp_path / "model.pth", None)
    assert bare.config == ModelConfig()
    (tmp_path / "processor.py").write_text("")
    (tmp_path / "config.toml").write_text("[model]\nmax_batch_size = 5\n")
    full = open_folder(tmp_path)
    assert full.processor_file == tmp_path / "processor.py"
    assert full.config.max_batch_size == 5


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.pth").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert open_folder(Path("m")).model_file == tmp_path / "m" / "model.pth"


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such model folder"):
        open_folder(tmp_path / "nowhere")
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"model\.pth: no such file; .*the folder holds: weights\.bin"):
        open_folder(tmp_path)


def test_config_errors_come_through(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"x")
    (tmp_path / "config.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read"):
        open_folder(tmp_path)
    (tmp_path / "config.toml").write_text("[model]\nx = 1\n")
    with pytest.raises(ConfigError, match=r"config\.toml:2: model\.x"):
        open_folder(tmp_path)


def test_one_model_file_or_one_that_is_named(tmp_path: Path) -> None:
    for name in ("model.pt", "model.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        ConfigError, match=r'several models, model\.pt, model\.safetensors;.*file = "model\.pt"'
    ):
        open_folder(tmp_path)
    (tmp_path / "config.toml").write_text('[model]\nfile = "model.safetensors"\n')
    assert open_folder(tmp_path).model_file == tmp_path / "model.safetensors"
    (tmp_path / "config.toml").write_text('[model]\nfile = "other.pt"\n')
    with pytest.raises(ConfigError, match=r"other\.pt: no such file; config\.toml names it"):
        open_folder(tmp_path)
    (tmp_path / "config.toml").unlink()
    (tmp_path / "model.pth").write_bytes(b"x")  # an old folder, whatever else it holds
    assert open_folder(tmp_path).model_file == tmp_path / "model.pth"


CLASS = "raise SystemExit\nclass {name}:\n    def predict(self, X, names): pass\n"


def test_a_class_is_found_without_running_its_file(tmp_path: Path) -> None:
    for name, source in (
        ("helper", "class Other: pass"),
        ("broken", "def ("),
        ("NotThis", "class NotThis: pass"),
    ):
        (tmp_path / f"{name}.py").write_text(source)
    with pytest.raises(ConfigError, match=r"model\.pth: no such file.*or MyModel\.py with a class MyModel"):
        open_folder(tmp_path)
    (tmp_path / "MyModel.py").write_text(CLASS.format(name="MyModel"))
    (tmp_path / "processor.py").write_text("")
    found = open_folder(tmp_path)
    assert (found.class_path, found.model_file, found.processor_file) == ("MyModel.MyModel", None, None)
    (tmp_path / "Second.py").write_text(CLASS.format(name="Second"))
    with pytest.raises(ConfigError, match=r'could be the model, MyModel, Second;.*class = "MyModel"'):
        open_folder(tmp_path)
    (tmp_path / "config.toml").write_text('[model]\nclass = "helper.Other"\n')
    assert open_folder(tmp_path).class_path == "helper.Other"
    (tmp_path / "config.toml").write_text('[model]\nclass = "helper.Other"\nfile = "model.pt"\n')
    with pytest.raises(ConfigError, match="names both a file and a class"):
        open_folder(tmp_path)


def test_one_rule_tells_models_from_folders_of_versions(tmp_path: Path) -> None:
    assert not is_model_folder(tmp_path / "nowhere") and not is_model_folder(tmp_path)
    (tmp_path / "README.md").write_text("")
    (tmp_path / "train.py").write_text("raise SystemExit\n")
    assert is_model_folder(tmp_path), "of which it is said what is missing"
    (tmp_path / "2").write_text("a file, no version")
    assert is_model_folder(tmp_path)
    (tmp_path / "1").mkdir()
    assert not is_model_folder(tmp_path), "the script made the versions"
    for name, text in (("model.pt", ""), ("My.py", CLASS.format(name="My")), ("config.toml", "")):
        (tmp_path / name).write_text(text)
        assert is_model_folder(tmp_path), name
        (tmp_path / name).unlink()


def test_a_config_beside_versions_is_said_to_be_in_the_wrong_place(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(ConfigError, match=r"stands beside versions \(1\).*such as .*/1/config\.toml"):
        open_folder(tmp_path)
