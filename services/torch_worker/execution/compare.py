"""Whether two outputs are the same but for rounding, and inputs changed so that outputs must differ."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch


def perturbed(data: Any) -> Any:
    """An array or tensor (or dict of such) of the same dtype and shape with other values, the same ones every time.

    Values move towards zero, by unequal shares, so that ids stay within the tables that they point into; where
    that changes nothing, zeros become 0.25 (integers 1).
    """
    if isinstance(data, dict):
        return type(data)((name, perturbed(value)) for name, value in data.items())
    tensor = torch.from_numpy(np.array(data, order="C")) if isinstance(data, np.ndarray) else data
    if tensor.dtype is torch.bool:
        changed = ~tensor
    else:
        shares = torch.linspace(0.25, 0.75, tensor.numel(), dtype=torch.float64, device=tensor.device)
        wide = tensor if tensor.is_complex() else tensor.double()
        changed = (wide.nan_to_num() * shares.reshape(tensor.shape)).to(tensor.dtype)
        if torch.equal(changed, tensor):
            changed = torch.full_like(tensor, 0.25 if tensor.is_floating_point() else 1)
    return changed.numpy() if isinstance(data, np.ndarray) else changed


def same(left: Any, right: Any) -> bool:
    """Whether two outputs have one structure, equal shapes, and values that differ by no more than rounding
    does.

    Rounding: a batched product adds in another order than a single one; the tolerance is relative to the
    largest value, 1e-3 for float32 and wider, 2e-2 for half precision.
    """
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        if left.shape != right.shape or left.dtype != right.dtype:
            return False
        if left.numel() == 0:
            return True
        if left.is_complex():
            return same(torch.view_as_real(left.resolve_conj()), torch.view_as_real(right.resolve_conj()))
        if not left.is_floating_point():
            # Integer answers (argmax, token ids) may flip on a tie within rounding; a few may, most must not.
            return bool((left == right).float().mean() > 0.9)
        tolerance = 2e-2 if left.dtype.itemsize < 4 else 1e-3
        scale = float(right.detach().abs().nan_to_num(posinf=0.0).max())
        return torch.allclose(
            left.double(), right.double(), rtol=tolerance, atol=tolerance * min(scale, 1.0), equal_nan=True
        )
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        if left.dtype.kind in "fiubc" and right.dtype.kind in "fiubc":
            return same(torch.from_numpy(left), torch.from_numpy(right))
        return left.shape == right.shape and bool((left == right).all())
    if isinstance(left, float) and isinstance(right, float):
        return same(torch.tensor(left), torch.tensor(right))
    if type(left) is not type(right):
        return False
    if dataclasses.is_dataclass(left):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    return bool(left == right)
