"""Batched hooks: one call for several requests, and one by one where that failed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")
R = TypeVar("R")


class WrongResultError(RuntimeError):
    """A batched hook did not return one result for each request."""


def results_of(value: Any, requests: int, hook: str) -> list[Any]:
    """The results of a batched hook's return value, one a request.

    A list or tuple has an item for each; an array or tensor a row for each, which keeps its dimension 0, of size 1.

    Raises:
        WrongResultError: there are more or fewer, or it is something else.
    """
    if isinstance(value, np.ndarray | torch.Tensor):
        if value.ndim and len(value) == requests:
            return [value[i : i + 1] for i in range(requests)]
        got = f"{type(value).__name__} of shape {tuple(value.shape)}"
    elif isinstance(value, list | tuple):
        if len(value) == requests:
            return list(value)
        got = f"{len(value)} results"
    else:
        got = type(value).__name__
    raise WrongResultError(
        f"{hook} was given {requests} requests and returned {got}; it must return a list with one result for each, in "
        "their order, or an array or tensor with one row for each"
    )


def grouped(
    items: Sequence[T],
    together: Callable[[Sequence[T]], list[R]],
    alone: Callable[[T], R],
    failed: Callable[[BaseException, int], None],
) -> list[R]:
    """Results of items that are worked on together if possible.

    Where the call for several raises, its halves are tried, so that of n items with one guilty about 2 log2(n) calls
    are made; what answers a wrong number of results is not asked again for several.

    Args:
        together: for two items or more; one result each, in order.
        alone: for one; must not raise.
        failed: told of each failed call for several: the exception and how many items it was for.
    """
    if len(items) == 1:
        return [alone(items[0])]
    try:
        return together(items)
    except WrongResultError as error:
        failed(error, len(items))
        return [alone(item) for item in items]
    except BaseException as error:
        failed(error, len(items))
    half = len(items) // 2
    first = grouped(items[:half], together, alone, failed)
    return first + grouped(items[half:], together, alone, failed)


def copied(value: Any) -> Any:
    """A copy of what a hook may change in place, so that it can be given the same again: arrays, tensors, containers of
    them.
    """
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        twin = copy.copy(value)
        for key, item in value.items():
            twin[key] = copied(item)
        return twin
    if isinstance(value, list):
        # A long list of numbers, as JSON brings them, is copied whole.
        flat = not value or isinstance(value[0], int | float | str)
        return list(value) if flat else [copied(item) for item in value]
    if isinstance(value, tuple):
        items = [copied(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
