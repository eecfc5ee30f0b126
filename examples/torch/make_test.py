"""The example models: made once, whole, importable from their own folder, and right."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.torch import make
from examples.torch.digits import processor

# Loads model.pth as the worker does: only the model folder is on the path, not this repository.
LOAD = """
import sys, torch
sys.path.insert(0, sys.argv[1])
model = torch.load(sys.argv[1] + "/model.pth", weights_only=False)
out = model.eval()(torch.zeros([int(n) for n in sys.argv[2].split(",")]))
shapes = [tuple(t.shape) for t in (out if isinstance(out, list) else [out])]
print(type(model).__module__, shapes)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    assert make.main(["--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("digits", "3,1,8,8", "digits_net [(3, 10)]"),
        ("mmoe", "3,138", "mmoe_net [(3, 1), (3, 1)]"),
    ],
)
def test_model_loads_from_its_folder_alone(
    models: Path, tmp_path: Path, name: str, shape: str, expected: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", LOAD, str(models / name), shape],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_folders_hold_nothing_but_the_model(models: Path) -> None:
    assert sorted(p.name for p in models.iterdir()) == ["digits", "mmoe"]
    assert sorted(p.name for p in (models / "mmoe").iterdir()) == [
        "expected.json",
        "mmoe_net.py",
        "model.pth",
        "samples",
    ]
    assert sorted(p.name for p in (models / "digits").iterdir()) == [
        "digits_net.py",
        "expected.json",
        "model.pth",
        "processor.py",
        "samples",
    ]


def test_sample_rows_are_those_of_the_expected_answers(models: Path) -> None:
    rows = json.loads((models / "mmoe" / "expected.json").read_text())["features"]
    files = sorted((models / "mmoe" / "samples").iterdir())
    assert [[float(line) for line in path.read_text().splitlines()] for path in files] == rows


def test_sample_pictures_are_recognised(models: Path) -> None:
    model = torch.load(models / "digits" / "model.pth", weights_only=False).eval()
    samples = sorted((models / "digits" / "samples").glob("*.png"))
    assert len(samples) == 20
    right = 0
    with torch.inference_mode():
        for sample in samples:
            [[digit, probability]] = processor.postprocess(model(processor.preprocess(sample.read_bytes())))
            assert 0.1 < probability <= 1.0
            right += digit == int(sample.name[0])
    assert right >= 18


def test_existing_models_are_kept_unless_forced(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (models / "mmoe" / "model.pth").stat().st_mtime_ns
    assert make.main(["--out", str(models), "--only", "mmoe"]) == 0
    assert (models / "mmoe" / "model.pth").stat().st_mtime_ns == before
    assert make.main(["--out", str(models), "--only", "mmoe", "--force"]) == 0
    assert (models / "mmoe" / "model.pth").stat().st_mtime_ns != before
    assert sorted(p.name for p in models.iterdir()) == ["digits", "mmoe"]


def test_a_failed_maker_leaves_the_old_model(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> str:
        (folder / "model.pth").write_bytes(b"half")
        raise RuntimeError("no good")

    before = (models / "mmoe" / "model.pth").read_bytes()
    monkeypatch.setitem(make.MAKERS, "mmoe", fail)
    assert make.main(["--out", str(models), "--only", "mmoe", "--force"]) == 1
    assert (models / "mmoe" / "model.pth").read_bytes() == before
    assert sorted(p.name for p in models.iterdir()) == ["digits", "mmoe"]


def picture(grey: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, kind)
    return buffer.getvalue()


def test_preprocess_scales_inverts_and_accepts_colour() -> None:
    small = np.zeros((8, 8), np.uint8)
    small[2:6, 3:5] = 255
    expected = torch.from_numpy((small / 255.0).astype(np.float32)).reshape(1, 1, 8, 8)
    large = np.kron(small, np.ones((16, 16), np.uint8))
    for pixels in (small, large, 255 - large, np.stack([large] * 3, axis=2)):
        torch.testing.assert_close(processor.preprocess(picture(pixels)), expected)


@pytest.mark.parametrize("bad", [b"", b"not a picture", picture(np.zeros((8, 8), np.uint8))[:40]])
def test_preprocess_refuses_what_is_no_picture(bad: bytes) -> None:
    with pytest.raises(ValueError, match="not a picture"):
        processor.preprocess(bad)


def test_preprocess_refuses_other_kinds_and_huge_pictures() -> None:
    with pytest.raises(ValueError, match="binData"):
        processor.preprocess("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pixels"):
        processor.preprocess(picture(np.zeros((5000, 5000), np.uint8)))
