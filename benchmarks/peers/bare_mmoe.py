"""The mmoe model without any server: what each peer calls, so that the peers differ in nothing but the serving.

Runs in the peers' own environments: only PyTorch and numpy are there for certain. MMOE_FOLDER names the model's folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

FEATURES = 138
HEADS = 2


def load() -> Callable[[np.ndarray], np.ndarray]:
    """The model as a function of float32 (n, 138) to float32 (n, 2).

    One PyTorch thread: a call takes less than a millisecond, and threads that wait for each other cost more than they
    save while the server and the load generator want the same cores.
    """
    torch.set_num_threads(1)
    folder = Path(os.environ["MMOE_FOLDER"])
    sys.path.insert(0, str(folder))  # the pickle names classes of mmoe_net.py
    model = torch.load(folder / "model.pth", weights_only=False, map_location="cpu").eval()

    def call(rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat(model(torch.from_numpy(rows)), dim=1).numpy()

    return call


def rows_of(bodies: list[bytes]) -> np.ndarray:
    """Raw float32 bodies, one row each, as one writable float32 (n, 138)."""
    joined = bytearray(b"".join(bodies))
    return np.frombuffer(joined, dtype="<f4").reshape(-1, FEATURES)
