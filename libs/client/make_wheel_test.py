from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import make_wheel
from dl_inference.testing import backend

PROGRAM = """
import sys, dl_inference
from dl_inference import Client, InvalidInput
with Client(sys.argv[1]) as client:
    assert client.predict("m-1", {"x": [1.5]})["x"].tolist() == [1.5]
    assert client.pytorch_predict(7, {"a": 1}) == {"a": 1}
    assert client.infer("m-1", {"x": [1.5]})["x"].tolist() == [1.5]
assert not [name for name in sys.modules if name == "libs" or name.startswith("libs.")], "libs is not ours to claim"
assert dl_inference.__file__.startswith(sys.argv[2]), dl_inference.__file__
print("fine")
"""


def made(out: Path) -> Path:
    assert make_wheel.main(["--out", str(out)]) == 0
    (path,) = out.iterdir()
    return path


def test_an_installed_wheel_works_alone(tmp_path: Path) -> None:
    path = made(tmp_path / "dist")
    assert path.name == "dl_inference_client-0.1.0-py3-none-any.whl"
    installed = tmp_path / "site"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        archive.extractall(installed)
    assert "dl_inference/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"dl_inference", "dl_inference_client-0.1.0.dist-info"}
    assert not [name for name in names if "test" in name or name.endswith("_pb2.py")]
    # What it is installed beside, without this repository.
    here = {str(Path(make_wheel.__file__).parent), str(Path(make_wheel.__file__).parents[2]), ""}
    beside = [
        entry for entry in sys.path if entry not in here and not (Path(entry) / "dl_inference").exists()
    ]
    with backend() as server:
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, server.address, str(installed)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *beside])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ran.stdout.strip() == "fine", ran.stderr


def test_the_record_names_every_file_with_its_digest(tmp_path: Path) -> None:
    with zipfile.ZipFile(made(tmp_path)) as archive:
        record = archive.read("dl_inference_client-0.1.0.dist-info/RECORD").decode().splitlines()
        entries = {line.split(",")[0]: line.split(",")[1:] for line in record}
        assert set(entries) == set(archive.namelist())
        for name, (digest, size) in entries.items():
            if size:
                text = archive.read(name).decode()
                assert (digest, int(size)) == (f"sha256={make_wheel._digest(text)}", len(text.encode()))


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    assert made(tmp_path / "one").read_bytes() == made(tmp_path / "two").read_bytes()


def test_only_imports_are_rewritten() -> None:
    source = "from libs.proto import wire\nimport libs.proto.wire as w\n    from libs.a.b import c\n# see libs.proto\n"
    assert make_wheel.rewritten(source) == (
        "from dl_inference._libs.proto import wire\nimport dl_inference._libs.proto.wire as w\n"
        "    from dl_inference._libs.a.b import c\n# see libs.proto\n"
    )
