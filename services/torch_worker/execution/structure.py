"""Outputs of models are tensors inside dicts, lists, tuples and dataclasses: changing the tensors, keeping the rest."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def mapped(output: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with each tensor and array changed, in order; what holds none stays as it is."""
    if isinstance(output, torch.Tensor | np.ndarray):
        return change(output)
    if isinstance(output, dict):
        twin = copy.copy(output)
        for key, value in output.items():
            twin[key] = mapped(value, change)
        return twin
    if isinstance(output, list | tuple):
        items = [mapped(value, change) for value in output]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        names = [field.name for field in dataclasses.fields(output) if field.init]
        return dataclasses.replace(output, **{n: mapped(getattr(output, n), change) for n in names})
    return output
