"""Autocast: floating operators in half the bits, where PyTorch deems that safe; answers are float32 as ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from services.torch_worker.execution.structure import mapped

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocasted(call: Callable[..., Any], device: torch.device, name: str) -> Callable[..., Any]:
    """The same call under autocast, its outputs in float32 where autocast left them in half precision.

    Args:
        call: the model, or a run_model hook.
        device: that it runs on.
        name: "bfloat16" or "float16".
    """
    dtype = _TYPES[name]

    def run(*args: Any, **kwargs: Any) -> Any:
        # The cache holds casts of weights that want gradients, within one call: nothing here, and a CUDA graph must not
        # be recorded with it.
        with torch.autocast(device.type, dtype=dtype, cache_enabled=False):
            output = call(*args, **kwargs)
        return widened(output, dtype)

    return run


def widened(output: Any, dtype: torch.dtype) -> Any:
    """The same structure with tensors of that dtype as float32."""

    def change(tensor: Any) -> Any:
        return tensor.float() if tensor.dtype is dtype else tensor

    return mapped(output, change)
