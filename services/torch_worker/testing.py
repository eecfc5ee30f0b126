"""Helpers for tests: model folders made from source text, and process state put back afterwards."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import torch

# A model whose answer tells its input: y = 2x + 1 in each of 3 columns, float32 weights.
DOUBLER = """
import torch
from torch import nn

class Doubler(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        with torch.no_grad():
            self.linear.weight.copy_(2 * torch.eye(3))
            self.linear.bias.fill_(1)

    def forward(self, x):
        return self.linear(x)
"""


def make_folder(
    path: Path, source: str, expression: str, *, processor: str | None = None, config: str | None = None
) -> Path:
    """Write a model folder: net.py with source, model.pth with what expression over it makes."""
    path.mkdir(parents=True, exist_ok=True)
    file = path / "net.py"
    file.write_text(dedent(source), encoding="utf-8")
    with kept_process_state():
        spec = importlib.util.spec_from_file_location("net", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["net"] = module
        spec.loader.exec_module(module)
        torch.save(eval(expression, vars(module)), path / "model.pth")
    if processor is not None:
        (path / "processor.py").write_text(dedent(processor), encoding="utf-8")
    if config is not None:
        (path / "config.toml").write_text(dedent(config), encoding="utf-8")
    return path


@contextmanager
def kept_process_state() -> Iterator[None]:
    """Put back the import path, the working directory and the modules that a model folder brought."""
    paths, modules, cwd = list(sys.path), set(sys.modules), Path.cwd()
    try:
        yield
    finally:
        sys.path[:] = paths
        os.chdir(cwd)
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and not any(file.startswith(p) for p in paths if p):
                del sys.modules[name]
