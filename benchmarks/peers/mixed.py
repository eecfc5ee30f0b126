"""Small models of many kinds, requests of many shapes for them, and what each request is answered by the bare model.

Runs by path where PyTorch is:
  mixed.py FOLDER REQUESTS SEED    makes FOLDER/NAME/, a model folder for each, with requests.npz beside the model
In requests.npz, I/in/NAME are the inputs of request I and I/out/K its outputs in order; one without outputs is refused.
Model folders hold this file beside model.pth: the pickles refer to its classes.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


class Experts(nn.Module):
    """Two heads over six experts: float (n, 138) to a list of two (n, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(138, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(6)
        )
        self.gates = nn.ModuleList(nn.Linear(138, 6) for _ in range(2))
        self.towers = nn.ModuleList(nn.Linear(16, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        known = torch.stack([expert(x) for expert in self.experts], dim=1)
        mixed = [(torch.softmax(gate(x), 1).unsqueeze(2) * known).sum(1) for gate in self.gates]
        return [torch.sigmoid(tower(m)) for tower, m in zip(self.towers, mixed, strict=True)]


class Digits(nn.Module):
    """Pictures, float (n, 1, 8, 8) to (n, 10); batch normalisation and dropout are there to be switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x))
        return logits


class Text(nn.Module):
    """Ids, int64 (n, length), where 0 is nothing: scores (n, 4) of the text, and tags (n, length, 3) of its words."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(200, 16)
        self.convolution = nn.Conv1d(16, 24, 3, padding=1)
        self.scores, self.tags = nn.Linear(24, 4), nn.Linear(24, 3)

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        real = (ids != 0).unsqueeze(1).float()
        words = torch.relu(self.convolution(self.table(ids).transpose(1, 2) * real)) * real
        return {"scores": self.scores(words.amax(2)), "tags": self.tags(words.transpose(1, 2))}


class Heads(nn.Module):
    """Outputs of different shapes and types: float (n, 7) to (n, 3), int64 (n), (n, 2, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(7, 10)
        self.narrow = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scores = self.narrow(x)
        return scores, scores.argmax(1), torch.tanh(self.wide(x)).view(-1, 2, 5)


class Pair(nn.Module):
    """Two inputs and one that may be left out, by name: float (n, 16) each, weight (n, 1), to (n, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(
        self, user: torch.Tensor, item: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        score: torch.Tensor = (self.user(user) * self.item(item)).sum(1, keepdim=True)
        return score if weight is None else score * weight


class Anything(nn.Module):
    """Any type and shape (n, ...): the same doubled, and the sum of each row."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"twice": x * 2, "sum": x.flatten(1).sum(1)}


HOOKS = """
import numpy as np
import torch

def preprocess_batch(xs, **kwargs):
    for x in xs:
        x /= 16
        if x.min() < 0:
            raise ValueError("ink must not be negative")
    return [torch.from_numpy(x).float() for x in xs]

def postprocess_batch(xs, **kwargs):
    return [
        {"class": x.argmax(1).numpy(), "probability": torch.softmax(x, 1).amax(1).numpy()} for x in xs
    ]
"""

Inputs = dict[str, Any]
FLOATS = (np.float32, np.float64)
TRAILING = ((1,), (5,), (2, 3), (4, 1, 2))
TYPES = (np.float32, np.float64, np.int32, np.int64, np.uint8)


def rows(rng: np.random.Generator) -> int:
    """Mostly one, often a few, now and then many."""
    return int(rng.choice([1, 1, 1, 2, 3, 5, 17]))


def one_of(rng: np.random.Generator, types: Sequence[type[np.generic]]) -> type[np.generic]:
    return types[int(rng.integers(len(types)))]


def dense(width: int) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {"x": rng.standard_normal((rows(rng), width)).astype(one_of(rng, FLOATS))}


def pictures(rng: np.random.Generator) -> Inputs:
    ink = rng.integers(0, 17, (rows(rng), 1, 8, 8)).astype(one_of(rng, FLOATS))
    return {"x": -1 - ink if rng.random() < 0.01 else ink}


def texts(rng: np.random.Generator) -> Inputs:
    return {"ids": rng.integers(1, 200, (rows(rng), rng.integers(1, 61)))}


def pairs(rng: np.random.Generator) -> Inputs:
    n = rows(rng)
    both = {name: rng.standard_normal((n, 16)).astype(np.float32) for name in ("user", "item")}
    weight = {"weight": rng.random((n, 1)).astype(np.float32)}
    inputs = {**both, **(weight if rng.random() < 0.5 else {})}
    return dict(reversed(inputs.items())) if rng.random() < 0.5 else inputs


def anything(rng: np.random.Generator) -> Inputs:
    shape = (rows(rng), *TRAILING[rng.integers(len(TRAILING))])
    return {"x": rng.integers(0, 100, shape).astype(one_of(rng, TYPES))}


def outputs(model: nn.Module, inputs: Inputs) -> list[Any]:
    """What the bare model, with the default answers' form, makes of one request; [] where it must be refused."""
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    with torch.inference_mode():
        if isinstance(model, Pair):
            return [model(**tensors).numpy()]
        x = next(iter(tensors.values()))
        if isinstance(model, Digits):
            if bool((x < 0).any()):
                return []
            logits = model((x / 16).float())
            return [logits.argmax(1).numpy(), torch.softmax(logits, 1).amax(1).numpy()]
        output = model(x.float() if isinstance(model, Experts | Heads) else x)
    if isinstance(output, list):
        return [np.stack([part.numpy() for part in output])]
    return [part.numpy() for part in (output.values() if isinstance(output, dict) else output)]


SUBJECTS: dict[str, tuple[type[nn.Module], Callable[[np.random.Generator], Inputs], dict[str, str]]] = {
    "experts": (Experts, dense(138), {}),
    "digits": (Digits, pictures, {"processor.py": HOOKS}),
    "text": (Text, texts, {"config.toml": "[padding]\nmultiple_of = 16\n"}),
    "heads": (Heads, dense(7), {}),
    "pair": (Pair, pairs, {}),
    "anything": (Anything, anything, {}),
}


def make(folder: Path, name: str, requests: int, seed: int) -> None:
    """Fill one model folder."""
    kind, draw, files = SUBJECTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = kind().eval()
    torch.save(model, folder / "model.pth")
    shutil.copy(__file__, folder / "mixed.py")
    for file, text in files.items():
        (folder / file).write_text(text)
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for index in range(requests):
        inputs = draw(rng)
        arrays |= {f"{index}/in/{key}": value for key, value in inputs.items()}
        arrays |= {f"{index}/out/{at}": value for at, value in enumerate(outputs(model, inputs))}
    np.savez(folder / "requests.npz", **arrays)


def main() -> None:
    """The command line."""
    torch.set_num_threads(1)
    # Pickled as classes of the module `mixed`, which is what lies beside the models.
    sys.path.insert(0, str(Path(__file__).parent))
    beside = importlib.import_module("mixed")

    for name in SUBJECTS:
        beside.make(Path(sys.argv[1]) / name, name, int(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    main()
