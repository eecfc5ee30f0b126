from __future__ import annotations

from pathlib import Path

import pytest

from services.torch_worker.config import ConfigError
from services.torch_worker.model.folder import open_folder
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
