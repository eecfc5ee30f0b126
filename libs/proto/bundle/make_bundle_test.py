from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from libs.proto.bundle.make_bundle import FILE_NAME, build_sdist, contents, main, protos, zipped

ROOT = Path(__file__).absolute().parents[3]
# gRPC's own services, which every language's gRPC brings, and the files of a server, which no caller sends.
NOT_FOR_CALLERS = {
    "grpc_health.proto",
    "grpc_reflection_v1.proto",
    "grpc_reflection_v1alpha.proto",
    "tensorflow_serving_config.proto",
}


def test_every_protocol_that_the_gateway_speaks_is_in_it() -> None:
    every = {path.name for path in (ROOT / "libs/proto").glob("*.proto")}
    assert {Path(path).name for path in protos(ROOT)} == every - NOT_FOR_CALLERS


def test_files_lie_at_their_import_paths_unchanged() -> None:
    files = contents(ROOT)
    for path in protos(ROOT):
        assert files[path] == (ROOT / path).read_bytes()
    assert files.keys() == {"README.md", *protos(ROOT)}


def test_readme_names_every_file() -> None:
    readme = contents(ROOT)["README.md"].decode()
    for path in protos(ROOT):
        assert f"{Path(path).name}`" in readme


def test_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    assert build_sdist(str(tmp_path)) == FILE_NAME
    first = (tmp_path / FILE_NAME).read_bytes()
    assert first == zipped(dict(reversed(list(contents(ROOT).items()))))
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.testzip() is None
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(archive.namelist())


def test_import_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "libs/proto"
    folder.mkdir(parents=True)
    (folder / "wpai.proto").write_text(
        'import "google/protobuf/any.proto";\nimport "libs/proto/gone.proto";\n'
    )
    with pytest.raises(FileNotFoundError, match="gone.proto"):
        protos(tmp_path)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "new" / FILE_NAME)
