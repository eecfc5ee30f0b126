"""Runs protoc: needs grpcio-tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from libs.proto import generate

ONE_MESSAGE = 'syntax = "proto3";\npackage p;\nmessage M { map<string, int32> counts = 1; }\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one proto."""
    folder = tmp_path / "root" / "libs" / "proto"
    folder.mkdir(parents=True)
    (folder / "one.proto").write_text(ONE_MESSAGE)
    return tmp_path / "root"


def test_modules_are_written_under_the_out_folder(root: Path, tmp_path: Path) -> None:
    written = generate.generate(root, tmp_path / "out")
    names = ["one_pb2.py", "one_pb2.pyi", "one_pb2_grpc.py"]
    assert written == [tmp_path / "out" / "libs" / "proto" / name for name in names]
    assert "_private_pool.POOL" in written[0].read_text()
    assert not list(root.rglob("*_pb2*"))


def test_command_runs_in_the_root_of_a_build(root: Path) -> None:
    script = Path(generate.__file__)
    done = subprocess.run([sys.executable, str(script)], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (root / "libs" / "proto" / "one_pb2.py").exists()


def test_a_bad_proto_is_reported(root: Path) -> None:
    (root / "libs" / "proto" / "one.proto").write_text("no proto")
    with pytest.raises(generate.GenerationError, match="protoc failed"):
        generate.generate(root, root)


def test_no_protos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(generate.GenerationError, match="no .proto files"):
        generate.generate(tmp_path, tmp_path)
