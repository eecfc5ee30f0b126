"""A mixture of experts as it is mostly written: a module for each expert, gate and tower, called one after the other.

The mmoe example computes all experts in one product. This one has the same sizes and some fifty small operators, so
that a call takes several times as long, whatever the rows: the model that sharing calls is for.

    textbook_mmoe.py FOLDER     in the worker's environment: writes a model folder with random weights
"""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

FEATURES = 138
EXPERTS = 6
HEADS = 2


class TextbookMMoE(nn.Module):
    """float32 (n, 138) to a list of two float32 (n, 1), probabilities."""

    def __init__(self, hidden: int = 32, width: int = 16) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU())
            for _ in range(EXPERTS)
        )
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(FEATURES, EXPERTS), nn.Softmax(dim=1)) for _ in range(HEADS)
        )
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid()) for _ in range(HEADS)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        mixed = [(gate(x).unsqueeze(2) * experts).sum(dim=1) for gate in self.gates]
        return [tower(m) for tower, m in zip(self.towers, mixed, strict=True)]


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / "textbook_mmoe.py")
    sys.path.insert(0, str(folder))
    beside = importlib.import_module("textbook_mmoe")  # the pickle names the class by this module

    torch.manual_seed(0)
    torch.save(beside.TextbookMMoE().eval(), folder / "model.pth")


if __name__ == "__main__":
    main()
