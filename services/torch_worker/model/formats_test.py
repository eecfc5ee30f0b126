from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from services.torch_worker.config import ConfigError
from services.torch_worker.model.formats import Format, detect


def test_formats_by_content(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "anything"
    torch.save(nn.Linear(1, 1), file)
    assert detect(file) is Format.PICKLE
    torch.save({"a": torch.ones(1)}, file, _use_new_zipfile_serialization=False)
    assert detect(file) is Format.PICKLE
    save_file({"a": torch.ones(3)}, file)
    assert detect(file) is Format.SAFETENSORS
    torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)).save(file)  # type: ignore[no-untyped-call]
    assert detect(file) is Format.TORCHSCRIPT
    file = tmp_path / "x.pt2"
    torch.export.save(torch.export.export(nn.Linear(1, 1), (torch.ones(1, 1),)), file)
    assert detect(file) is Format.EXPORT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; copy it again"),
        (b"hello world, this is text", "is no model file.*hello world"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer.*git lfs pull"),
        (b"PK\x03\x04 broken", "is damaged or cut short"),
        ((99).to_bytes(8, "little") + b'{"a": ', "is damaged or cut short: its safetensors header"),
        ((3).to_bytes(8, "little") + b"{1}", "is damaged or cut short: its safetensors header"),
    ],
)
def test_what_is_no_model_says_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"model\.pth: {message}"):
        detect(file)


def test_other_archives(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    for name, message in (
        ("a/x.txt", "a zip archive of something else.*x.txt"),
        ("m/data/aotinductor/m/k.so", "AOTI"),
    ):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, "")
        with pytest.raises(ConfigError, match=message):
            detect(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(b"x")
    file.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        detect(file)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        detect(tmp_path / "model.pth")
