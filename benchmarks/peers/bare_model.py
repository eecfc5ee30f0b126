"""The mmoe model without a server: one row a call, on one thread, in the worker's environment.   bare_model.py FOLDER

Prints the microseconds that half of the calls did not exceed: called again and again, and with a pause before each,
as between two requests of one caller, in which the processor's caches are used for something else.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

CALLS = 2000
PAUSE_S = 0.0002


def median_us(model: torch.nn.Module, pause_s: float) -> float:
    row = 0.01 * np.arange(138.0)[None]
    took = []
    for _ in range(CALLS):
        if pause_s:
            time.sleep(pause_s)
        start = time.perf_counter()
        model(torch.from_numpy(row.astype(np.float32)))
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e6


def main() -> None:
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(folder))
    torch.set_num_threads(1)
    model = torch.load(folder / "model.pth", weights_only=False, map_location="cpu").eval()
    with torch.inference_mode():
        median_us(model, 0.0)
        print(median_us(model, 0.0), median_us(model, PAUSE_S))


if __name__ == "__main__":
    main()
