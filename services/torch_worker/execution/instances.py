"""Copies of a model, so that several calls of it may run at a time.

On one device the copies share the parameters, which no model writes in evaluation mode: ten instances of a 400 MB model
take 400 MB, and its weights stay in the CPU's caches once. All else is each copy's own: buffers, and whatever a module
keeps in attributes between or within calls (caches, hidden states), which two threads must not share.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from services.torch_worker.config import ConfigError


def copies(model: torch.nn.Module, devices: Sequence[torch.device], each: int) -> list[torch.nn.Module]:
    """The model's instances, `each` on every device, in the devices' order; the first is the model itself.

    Args:
        model: in evaluation mode, on the first device.

    Raises:
        ConfigError: the model cannot be copied.
    """
    instances = [model]
    for device in devices:
        first = model if device == devices[0] else _copy(model, {}).to(device)
        if first is not model:
            instances.append(first)
        for _ in range(each - 1):
            instances.append(_copy(first, {id(p): p for p in first.parameters()}))
    return instances


def _copy(model: torch.nn.Module, memo: dict[int, Any]) -> torch.nn.Module:
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever the model's attributes raise
        raise ConfigError(
            f"the model cannot be copied for another instance, {type(error).__name__}: {error}; serve it with one "
            "(--instances 1, one --device), or give its class a __deepcopy__"
        ) from error
