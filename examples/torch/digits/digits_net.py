"""The network class of the digits model; it lies beside model.pth because the pickle refers to it by name."""

from __future__ import annotations

import torch
from torch import nn


class DigitsNet(nn.Module):
    """A small convolutional network for 8x8 greyscale digits.

    Input: float32 (n, 1, 8, 8), ink 1.0 on background 0.0. Output: float32 (n, 10) logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(64, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the ten digits."""
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits
