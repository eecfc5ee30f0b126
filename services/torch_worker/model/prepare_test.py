from __future__ import annotations

import importlib
import importlib.metadata
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.torch_worker.config import ConfigError
from services.torch_worker.model.prepare import prepare
from services.torch_worker.model.requirements import check_requirements, lacking, read_requirements


@pytest.fixture(autouse=True)
def _path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """pip knows the wheels that a test makes and no index; the import path is put back."""
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("dl_worker_alpha", None)


def wheel(tmp_path: Path, name: str, version: str, *requires: str) -> None:
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(tmp_path / "wheels" / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", metadata + "".join(f"Requires-Dist: {r}\n" for r in requires))
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def model_folder(tmp_path: Path, requirements: str) -> Path:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text(requirements)
    return folder


def test_installs_what_is_lacking_and_nothing_of_the_workers_own(tmp_path: Path) -> None:
    wheel(tmp_path, "dl_worker_alpha", "1.0", "dl-worker-beta>=2", "numpy")
    wheel(tmp_path, "dl_worker_beta", "2.5")
    folder = model_folder(tmp_path, "dl-worker-alpha<2  # ours\nnumpy>=1\nseldon-core==1.17.1\n")
    with pytest.raises(
        ConfigError, match=r"not installed: dl-worker-alpha<2; run `torch-worker prepare --model-dir"
    ):
        check_requirements(folder)
    assert sorted(prepare(folder)) == ["dl_worker_alpha==1.0", "dl_worker_beta==2.5"]
    check_requirements(folder)
    assert importlib.import_module("dl_worker_alpha").VERSION == "1.0"
    assert not list((folder / ".packages").glob("numpy*"))
    assert sorted(p.name for p in folder.iterdir()) == [".packages", "requirements.txt"]
    assert sys.path[-1] == str(folder / ".packages")

    (folder / "requirements.txt").write_text("dl-worker-beta\n")
    assert prepare(folder) == ["dl_worker_beta==2.5"]
    assert not list((folder / ".packages").glob("dl_worker_alpha*"))
    (folder / "requirements.txt").write_text("numpy\n")
    assert prepare(folder) == [] and not (folder / ".packages").exists()


def test_the_workers_own_packages_are_not_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wheel(tmp_path, "numpy", "0.1")
    folder = model_folder(tmp_path, "numpy<1\n")
    with pytest.raises(ConfigError, match=r"pip failed, see above.*cannot be replaced"):
        prepare(folder)
    assert "numpy" in capfd.readouterr().err
    assert not (folder / ".packages").exists()


def test_another_version_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = model_folder(tmp_path, "numpy<1\n")
    check_requirements(folder)
    assert f"numpy<1 (there is {importlib.metadata.version('numpy')})" in caplog.text
    assert "torch-worker prepare --model-dir" in caplog.text


def test_a_folder_without_requirements(tmp_path: Path) -> None:
    assert prepare(tmp_path) == [] and lacking(tmp_path) == []


def test_reads_what_pip_reads(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("six\n")
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# comment\n--index-url https://example.invalid/simple\n-r more.txt\n\n"
        "pillow[webp]>=10 ; python_version >= '3.8'   # why\nnever; python_version < '3'\n"
        "git+https://example.invalid/x.git\n./local.whl\n-e .\n"
        "numpy==2.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n"
    )
    assert [r.name for r in read_requirements(file)] == ["six", "pillow", "numpy"]
    file.write_text("\nnot a requirement\n")
    with pytest.raises(ConfigError, match=r"requirements\.txt:2: not a requirement"):
        read_requirements(file)
    file.write_text("-r requirements.txt\n")
    with pytest.raises(ConfigError, match="eight levels deep"):
        read_requirements(file)
    file.write_text("-r absent.txt\n")
    with pytest.raises(ConfigError, match=r"absent\.txt: cannot be read"):
        read_requirements(file)
