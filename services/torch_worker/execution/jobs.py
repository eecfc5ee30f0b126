"""A request on its way through the engine, and which requests can share a model call."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from services.torch_worker.execution.tensors import join

# (dtype, trailing shape), or for named inputs ((name, dtype, trailing shape), ...).
Form = tuple[Any, ...]


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way through the engine.

    Attributes:
        data: the model's input: preprocess's result, or the payload where there is no preprocess.
        kwargs: what the hooks get as keyword arguments: {"meta": {"tags": {...}, ...}}.
        model_kwargs: keyword arguments of the model call, from the tags; mostly empty.
        rows: size of dimension 0, for jobs that can share a call; else 1.
        key: jobs of equal keys can share a call; None: this one cannot.
        form: dtype and trailing shape of an input that has rows.
        length: of the sequence in dimension 1, where the folder asks for padding and the input has one; else -1.
        padded_key: jobs of equal padded keys can share a call once they are filled up to one length; None: as `key`.
    """

    data: Any
    kwargs: dict[str, Any]
    model_kwargs: dict[str, Any]
    rows: int
    key: Hashable
    form: Form | None
    length: int = -1
    padded_key: Hashable = None


def is_numeric(payload: Any) -> bool:
    """Whether it is a tensor, or an array of numbers."""
    if isinstance(payload, np.ndarray):
        return payload.dtype.kind in "fiub"
    return isinstance(payload, torch.Tensor)


def size_of(data: Any) -> int:
    """How many numbers a model's input holds: a measure of the work; 0 for what is neither an array nor of arrays."""
    if isinstance(data, np.ndarray):
        return data.size
    if isinstance(data, torch.Tensor):
        return data.numel()
    return sum(map(size_of, data.values())) if isinstance(data, dict) else 0


def is_named(payload: Any) -> bool:
    """Whether it is a dict of arrays or tensors."""
    return (
        isinstance(payload, dict)
        and bool(payload)
        and all(isinstance(value, np.ndarray | torch.Tensor) for value in payload.values())
    )


def named_form(data: dict[str, Any]) -> tuple[int, Form] | None:
    """Rows and form of named inputs; None if one is no array of numbers with rows, or their numbers of rows differ."""
    if not data or not all(is_numeric(value) and value.ndim > 0 for value in data.values()):
        return None
    rows = {len(value) for value in data.values()}
    if len(rows) != 1:
        return None
    return rows.pop(), tuple((name, value.dtype, value.shape[1:]) for name, value in data.items())


def padded_form(form: Form, length: int) -> Form:
    """The form that an input with a sequence has once that is filled up to length."""
    if isinstance(form[0], tuple):
        return tuple((name, dtype, (length, *shape[1:])) for name, dtype, shape in form)
    dtype, shape = form
    return (dtype, (length, *shape[1:]))


def frozen(tags: Mapping[str, Any]) -> str:
    """A hashable form of tags: equal for equal tags in any order."""
    return json.dumps(tags, sort_keys=True)


def alike(jobs: Sequence[Job]) -> bool:
    """Whether all have arrays or tensors whose first rows, where they have any, are equal."""
    if any(job.form is None for job in jobs):
        return False
    heads = [head_row(job.data) for job in jobs if job.rows]
    return all(_equal(head, heads[0]) for head in heads[1:])


def head_row(data: Any) -> Any:
    """The first row of an input, as a tensor or a dict of tensors."""
    if isinstance(data, dict):
        return {name: join([value[:1]]) for name, value in data.items()}
    return join([data[:1]])


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return all(torch.equal(left[name], right[name]) for name in left)
    return torch.equal(left, right)


# By numpy's letters for kinds of types.
_CONTENTS = {"U": "text", "S": "bytes", "O": "bytes, or of values of several types"}


def describe(payload: Any) -> str:
    """What a payload is, for error messages."""
    if isinstance(payload, np.ndarray):
        return f"an array of {_CONTENTS.get(payload.dtype.kind, payload.dtype)}"
    if is_named(payload):
        return ", ".join(f"{name}: {describe(value)}" for name, value in payload.items())
    if isinstance(payload, bytes | str):
        return "binData" if isinstance(payload, bytes) else "strData"
    return "customData" if hasattr(payload, "DESCRIPTOR") else "jsonData"


def form_text(form: Form) -> str:
    """A form for error messages: `float64 of shape (n, 3)`."""
    if isinstance(form[0], tuple):
        return ", ".join(f"{name}: {form_text((dtype, shape))}" for name, dtype, shape in form)
    dtype, trailing = form
    return f"{str(dtype).removeprefix('torch.')} of shape ({', '.join(['n', *map(str, trailing)])})"
