"""Build step: the model folder of slow_net.py, for the deadline and drain tests.   make_slow.py OUT"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from e2e import slow_net
from examples.torch.importing import import_file

SECONDS = 1.0


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    source = shutil.copy(slow_net.__file__, folder)
    module = import_file(Path(source))
    torch.save(module.Slow(SECONDS), folder / "model.pth")
    # One request a run, so that a run count is a request count; warm-up runs are counted too.
    (folder / "config.toml").write_text("[model]\nbatchable = false\n")


if __name__ == "__main__":
    main()
