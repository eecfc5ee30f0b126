"""What the PyTorch example models answer when they are loaded directly, without a server: expected.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from examples.torch.importing import import_file

MMOE_ROWS = 6


def write_digits(folder: Path) -> None:
    """Writes {picture: [class, probability]} for the folder's samples."""
    model = _load(folder, "digits_net")
    processor = import_file(folder / "processor.py")
    answers = {}
    for sample in sorted((folder / "samples").glob("*.png")):
        with torch.inference_mode():
            answers[sample.name] = processor.postprocess(model(processor.preprocess(sample.read_bytes())))[0]
    _write(folder, answers)


def write_mmoe(folder: Path) -> None:
    """Writes {"features": rows of 138 numbers, "outputs": both heads' values of each row}, and samples/<row>.txt with
    a row's numbers a line, for callers without a JSON library."""
    model = _load(folder, "mmoe_net")
    rows = np.random.default_rng(111).standard_normal((MMOE_ROWS, model_features(model))).round(4)
    with torch.inference_mode():
        outputs = [[float(head[0, 0]) for head in model(torch.from_numpy(row[None]).float())] for row in rows]
    _write(folder, {"features": rows.tolist(), "outputs": outputs})
    (folder / "samples").mkdir()
    for number, row in enumerate(rows.tolist()):
        (folder / "samples" / f"{number}.txt").write_text("".join(f"{value}\n" for value in row))


def model_features(model: torch.nn.Module) -> int:
    """Returns how many features one row of the mmoe model has."""
    return next(layer.in_features for layer in model.modules() if isinstance(layer, torch.nn.Linear))


def _load(folder: Path, classes: str) -> torch.nn.Module:
    """Loads model.pth with its class file under the bare module name that the pickle refers to."""
    import_file(folder / f"{classes}.py")
    model: torch.nn.Module = torch.load(folder / "model.pth", weights_only=False, map_location="cpu")
    return model.eval()


def _write(folder: Path, answers: object) -> None:
    (folder / "expected.json").write_text(json.dumps(answers, ensure_ascii=False) + "\n")
