"""Train the digits network on scikit-learn's digits set and write sample pictures of held-out digits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from tqdm import tqdm

MIN_ACCURACY = 0.97
EPOCHS = 30
BATCH = 64
SAMPLES_PER_DIGIT = 2
# The set's pixels are 0..16; a picture of it is stored in 0..255 and drawn 8 times larger for human eyes.
PIXEL_MAX = 16.0
ENLARGE = 8


def digit_png(pixels: np.ndarray) -> bytes:
    """A digit of the set, float (8, 8) in 0..16, as a 64x64 greyscale PNG."""
    grey = np.rint(pixels * (255.0 / PIXEL_MAX)).astype(np.uint8)
    large = Image.fromarray(np.kron(grey, np.ones((ENLARGE, ENLARGE), np.uint8)))
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    return buffer.getvalue()


def train(net_class: type[nn.Module], samples_dir: Path) -> tuple[nn.Module, float]:
    """Train a fresh network of net_class; write samples_dir/<label>-<n>.png; return it with its test
    accuracy.

    Deterministic for one torch version and machine. Raises RuntimeError when the accuracy is not above 97 %.
    """
    torch.manual_seed(7)
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.images, digits.target, test_size=0.25, random_state=7, stratify=digits.target
    )
    x = torch.tensor(train_x / PIXEL_MAX, dtype=torch.float32).unsqueeze(1)
    y = torch.tensor(train_y)
    net = net_class()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=6e-3, epochs=EPOCHS, steps_per_epoch=-(-len(x) // BATCH)
    )
    loss_of = nn.CrossEntropyLoss()
    net.train()
    for _ in tqdm(range(EPOCHS), desc="digits: training", unit="epoch"):
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            # Moving the picture by up to a pixel each way keeps the network from learning absolute places.
            down, right = (int(v) for v in torch.randint(-1, 2, (2,)))
            batch = torch.roll(x[rows], shifts=(down, right), dims=(2, 3))
            optimiser.zero_grad()
            loss = loss_of(net(batch), y[rows])
            loss.backward()
            optimiser.step()
            schedule.step()
    net.eval()
    with torch.inference_mode():
        logits = net(torch.tensor(test_x / PIXEL_MAX, dtype=torch.float32).unsqueeze(1))
    accuracy = float((logits.argmax(dim=1).numpy() == test_y).mean())
    if accuracy <= MIN_ACCURACY:
        raise RuntimeError(f"digits: test accuracy {accuracy:.2%}, more than {MIN_ACCURACY:.0%} was expected")

    samples_dir.mkdir(parents=True)
    for label in range(10):
        for n, index in enumerate(np.flatnonzero(test_y == label)[:SAMPLES_PER_DIGIT]):
            (samples_dir / f"{label}-{n}.png").write_bytes(digit_png(test_x[index]))
    return net, accuracy
