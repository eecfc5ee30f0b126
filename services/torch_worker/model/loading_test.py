from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from services.torch_worker.config import ConfigError
from services.torch_worker.model.folder import open_folder
from services.torch_worker.model.loading import enter_folder, load_model
from services.torch_worker.testing import DOUBLER, kept_process_state, make_folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    with kept_process_state():
        yield


def load(path: Path) -> torch.nn.Module:
    folder = open_folder(path)
    enter_folder(folder)
    return load_model(folder, CPU)


def test_a_pickled_model_finds_its_class_file(tmp_path: Path) -> None:
    model = load(make_folder(tmp_path, DOUBLER, "Doubler().train()"))
    assert not model.training
    assert model(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[3.0, 5.0, 7.0]]
    assert Path.cwd() == tmp_path
    assert sys.path[0] == str(tmp_path)


def test_a_missing_class_file_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()")
    (tmp_path / "net.py").unlink()
    with pytest.raises(ConfigError, match=r"refers to module 'net'.*put net\.py beside model\.pth"):
        load(tmp_path)


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()")
    (tmp_path / "net.py").write_text("import torch\n")
    with pytest.raises(ConfigError, match=r"Doubler.*must move to a file of its own"):
        load(tmp_path)


def test_what_is_no_whole_model_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", DOUBLER, "Doubler().state_dict()")
    with pytest.raises(ConfigError, match=r"state dict of 2 entries.*torch\.save\(model"):
        load(tmp_path / "a")
    make_folder(tmp_path / "b", DOUBLER, "[1, 2]")
    with pytest.raises(ConfigError, match=r"holds a list, expected a torch\.nn\.Module"):
        load(tmp_path / "b")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"hello world"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.pth: torch\.load cannot read it"):
        load(tmp_path)


def test_code_of_the_folder_that_raises_is_reported(tmp_path: Path) -> None:
    make_folder(tmp_path, DOUBLER, "Doubler()")
    (tmp_path / "net.py").write_text("raise LookupError('no licence')\n")
    with pytest.raises(ConfigError, match="LookupError: no licence"):
        load(tmp_path)
