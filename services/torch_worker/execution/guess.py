"""Inputs that a model would take, made up from what its folder declares or guessed from its first layer, to warm it up
where nobody recorded one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from libs.proto.kserve_tensor import datatype
from services.torch_worker.execution.arguments import NamedInputs, arguments_of
from services.torch_worker.model.model_config import TensorSpec

# Sides of pictures and lengths of sequences that are tried, the usual ones first: a model with a fixed size takes one.
_SIDES = (224, 256, 128, 96, 64, 48, 32, 28, 16, 8)
_LENGTHS = (32, 128, 512, 16, 64, 256)
_VOLUMES = ((16, 112, 112), (8, 32, 32))

# What is tried for a dimension of any size.
_ANY_SIZE = 16

_TABLES = ("Embedding", "EmbeddingBag")
_RECURRENT = ("LSTM", "GRU", "RNN")
_KNOWN = ("Linear", "Conv1d", "Conv2d", "Conv3d", *_TABLES, *_RECURRENT)


def declared(specs: Sequence[TensorSpec]) -> Any:
    """One row of the declared inputs, zeros and ones at random: an array, or for several inputs `NamedInputs`; None
    where one of them is text.

    Zero and one are in every table of embeddings, and are what masks hold.
    """
    random = np.random.default_rng(0)
    rows = NamedInputs()
    for spec in specs:
        dtype = datatype(spec.datatype).array
        if dtype.kind == "O":
            return None
        shape = (1, *(size if size >= 0 else _ANY_SIZE for size in spec.shape[1:]))
        rows[spec.name] = random.integers(0, 2, shape).astype(dtype)
    return rows if len(rows) > 1 else next(iter(rows.values()))


def guesses(model: torch.nn.Module) -> Iterator[np.ndarray[Any, Any]]:
    """One row of input, (1, ...), in several shapes; float32 from 0 to 1, or int64 where the model looks numbers up.

    Nothing for models that need several inputs or begin with a layer of an unknown kind. The values are the same ones
    every time.
    """
    if arguments_of(model).required > 1:
        return
    layer = next((found for found in model.modules() if _kind(found)), None)
    if layer is None:
        return
    random = np.random.default_rng(0)
    for shape in _shapes(layer):
        if _kind(layer) in _TABLES:
            yield random.integers(0, _shape(layer.weight)[0], (1, *shape), dtype=np.int64)
        else:
            yield random.random((1, *shape), dtype=np.float32)


def _kind(module: torch.nn.Module) -> str:
    """Which known layer the module is, a subclass of it or its TorchScript form; "" for another."""
    names = (getattr(module, "original_name", ""), *(base.__name__ for base in type(module).__mro__))
    return next((name for name in names if name in _KNOWN), "")


def _shape(weight: object) -> tuple[int, ...]:
    assert isinstance(weight, torch.Tensor)
    return tuple(weight.shape)


def _shapes(layer: torch.nn.Module) -> list[tuple[int, ...]]:
    """Trailing shapes of inputs that the layer could be the first to see."""
    kind = _kind(layer)
    if kind in _TABLES:
        return [(length,) for length in _LENGTHS]
    if kind in _RECURRENT:
        width = _shape(layer.weight_ih_l0)[1]
        return [(length, width) for length in _LENGTHS]
    width = _shape(layer.weight)[1]
    if kind == "Linear":
        return [(width,), *((length, width) for length in _LENGTHS[:2])]
    channels = width * int(getattr(layer, "groups", 1))
    if kind == "Conv1d":
        return [(channels, length) for length in _LENGTHS]
    if kind == "Conv2d":
        return [(channels, side, side) for side in _SIDES]
    return [(channels, *volume) for volume in _VOLUMES]
