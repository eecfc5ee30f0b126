"""Importing a model folder's files as the worker does: under their bare names."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType


def import_file(path: Path) -> ModuleType:
    """Import one file as the top-level module of its name, in place of another of that name.

    A pickled model names its classes by module, and the worker looks for them in the model folder: they must
    be pickled, and are found, as `net` and not as `examples.torch.net`. No `__pycache__` is left in the folder.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
    return module
