"""The convolutional networks of the image benchmarks, with random weights, and the bare `model(x)` loop over them.

Runs by path where PyTorch is:
  convnets.py save FOLDER    makes FOLDER/NAME/ a model folder for each network
  convnets.py loop NAME      reads lines "threads rows seconds" and answers each with the loop's rows per second and
                             CPU microseconds per row
Model folders hold this file beside model.pth: the pickles refer to its classes.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn


class Digits(nn.Module):
    """The network of the digits example: float (n, 1, 8, 8) to (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits


class TextCnn(nn.Module):
    """A sentence classifier: token numbers (n, 64), of any dtype, to (n, 10); three widths of convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50_000, 128)
        self.convolutions = nn.ModuleList(nn.Conv1d(128, 128, width) for width in (3, 4, 5))
        self.output = nn.Linear(3 * 128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        embedded = self.embedding(x.long()).transpose(1, 2)
        pooled = [torch.relu(convolution(embedded)).amax(2) for convolution in self.convolutions]
        logits: torch.Tensor = self.output(torch.cat(pooled, 1))
        return logits


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions around a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet50(nn.Module):
    """The shape of ResNet-50: float (n, 3, 224, 224) to (n, 1000), 4.1 billion multiplications a picture."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]
        channels = 64
        for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for block in range(blocks):
                layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
                channels = 4 * width
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(channels, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.output(self.features(x).mean((2, 3)))
        return logits


NETWORKS: dict[str, tuple[type[nn.Module], Callable[[int], torch.Tensor]]] = {
    "digits": (Digits, lambda rows: torch.rand(rows, 1, 8, 8)),
    "textcnn": (TextCnn, lambda rows: torch.randint(0, 50_000, (rows, 64))),
    "resnet50": (ResNet50, lambda rows: torch.rand(rows, 3, 224, 224)),
}


def build(name: str) -> nn.Module:
    """The network of that name, with the same random weights every time, in evaluation mode."""
    torch.manual_seed(0)
    return NETWORKS[name][0]().eval()


def save(folder: Path) -> None:
    """Write a model folder for each network."""
    # Pickled as classes of the module that lies in the folder, not of this script.
    sys.path.insert(0, str(Path(__file__).parent))
    convnets = importlib.import_module("convnets")
    for name in NETWORKS:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(__file__, place / "convnets.py")
        torch.save(convnets.build(name), place / "model.pth")


def rate(model: nn.Module, x: torch.Tensor, threads: int, seconds: float) -> tuple[float, float]:
    """Rows per second of `model(x)`, again and again, and CPU microseconds per row."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        model(x)
        start, spent = time.perf_counter(), time.process_time()
        calls = 0
        while True:
            model(x)
            calls += 1
            elapsed = time.perf_counter() - start
            if elapsed >= seconds:
                rows = calls * len(x)
                return rows / elapsed, (time.process_time() - spent) / rows * 1e6


def loop(name: str) -> None:
    """Serve the bare loop on standard input and output."""
    model, inputs = build(name), NETWORKS[name][1]
    print("ready", flush=True)
    for line in sys.stdin:
        threads, rows, seconds = line.split()
        print(*rate(model, inputs(int(rows)), int(threads), float(seconds)), flush=True)


if __name__ == "__main__":
    command, argument = sys.argv[1:]
    save(Path(argument)) if command == "save" else loop(argument)
