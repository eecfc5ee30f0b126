"""Padding, only where the folder asks for it: requests whose sequences differ in length share a model call.

The length is dimension 1 of an input (n, length, ...), or of all inputs of a request with several. Sequences are filled
up at their end to the next multiple; outputs that have the length as their dimension 1 are cut back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from services.torch_worker.execution.structure import mapped
from services.torch_worker.execution.tensors import NotSplittableError


def padded_length(length: int, multiple_of: int) -> int:
    """The length that a sequence of this length is filled up to: the next multiple; 0 stays 0."""
    return -(-length // multiple_of) * multiple_of


def length_of(data: Any) -> int | None:
    """Dimension 1 of an array or tensor, or that which all of a dict have in common; None: there is none."""
    if isinstance(data, dict):
        lengths = {length_of(value) for value in data.values()}
        return lengths.pop() if len(lengths) == 1 else None
    if isinstance(data, np.ndarray | torch.Tensor) and data.ndim >= 2:
        return int(data.shape[1])
    return None


def mask_of(shapes: Sequence[tuple[int, int]], length: int) -> torch.Tensor:
    """bool (all rows, length): True where inputs of so many rows and such a length each have values of their own."""
    own = [torch.arange(length) < mine for _, mine in shapes]
    return torch.cat([row.expand(rows, length) for row, (rows, _) in zip(own, shapes, strict=True)])


def join_padded(inputs: Sequence[Any], length: int, value: float, mask: str | None = None) -> Any:
    """One tensor of the rows of all inputs (or a dict of such), each filled up to length along dimension 1.

    Args:
        inputs: arrays or tensors (n, any length up to `length`, ...) of one dtype and one shape behind dimension 1, or
            dicts of such by the same names.
        mask: name of that which tells what is real: it is filled up with zeros.
    """
    first = inputs[0]
    if isinstance(first, dict):
        columns = {name: [x[name] for x in inputs] for name in first}
        filling = {name: 0.0 if name == mask else value for name in first}
        return type(first)((name, join_padded(columns[name], length, filling[name])) for name in first)
    rows = sum(len(x) for x in inputs)
    shape = (rows, length, *first.shape[2:])
    start = 0
    if isinstance(first, torch.Tensor):
        joined = first.new_full(shape, value)
        for x in inputs:
            joined[start : start + len(x), : x.shape[1]] = x
            start += len(x)
        return joined
    array = np.full(shape, value, first.dtype)
    for x in inputs:
        array[start : start + len(x), : x.shape[1]] = x
        start += len(x)
    return torch.from_numpy(array)


def follows(alone: Any, length: int, padded: Any, padded_length: int) -> tuple[bool, ...]:
    """Which tensors of an output have the sequence's length as their dimension 1, in the order of `cut`.

    Told by one request's output for its own input, of `length`, and for the filled up one, which is longer.

    Raises:
        NotSplittableError: the outputs differ in structure.
    """
    short, long = list(_leaves(alone)), list(_leaves(padded))
    if len(short) != len(long):
        raise NotSplittableError(
            f"the model answered with {len(short)} tensors, with {len(long)} when padded"
        )
    return tuple(
        a.ndim >= 2 and b.ndim >= 2 and a.shape[1] == length and b.shape[1] == padded_length
        for a, b in zip(short, long, strict=True)
    )


def cut(output: Any, length: int, following: Sequence[bool]) -> Any:
    """The output with those tensors cut to length along dimension 1 that follow the sequence's.

    Raises:
        NotSplittableError: the output has another structure than it had when `following` was found out.
    """
    flags = iter(following)

    def shortened(leaf: Any) -> Any:
        flag = next(flags, None)
        if flag is None:
            raise NotSplittableError("the model's output has more tensors than it had")
        return leaf[:, :length] if flag else leaf

    result = mapped(output, shortened)
    if next(flags, None) is not None:
        raise NotSplittableError("the model's output has fewer tensors than it had")
    return result


def _leaves(output: Any) -> Iterator[Any]:
    if isinstance(output, torch.Tensor | np.ndarray):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _leaves(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _leaves(value)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for field in dataclasses.fields(output):
            yield from _leaves(getattr(output, field.name))
