"""A model that is slow and counts: it shows which requests reached the model."""

from __future__ import annotations

import time

import torch


class Slow(torch.nn.Module):
    """Sleeps, then answers with the number of times that it has run, per row: (n, f) -> (n, 1)."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        time.sleep(self.seconds)
        return torch.full((x.shape[0], 1), float(self.runs))
