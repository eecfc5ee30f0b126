"""Pure functions between payloads, tensors and answers: joining requests into a batch and splitting its
output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from services.torch_worker.model.answer import Answer


class NotSplittableError(Exception):
    """A batch's output cannot be divided among its requests by rows; the message says what stands in the
    way.
    """


def join(inputs: Sequence[Any], dtype: np.dtype[Any] | None = None) -> Any:
    """One tensor of the rows of all inputs, along dimension 0; of dicts of arrays or tensors, a dict of such tensors.

    Args:
        inputs: arrays, or tensors, of equal dtype and trailing shape, or dicts of such by the same names. Arrays may be
            read-only views: the result never shares memory with them, so that a model may write into its input.
        dtype: converts arrays to this type while they are copied; None keeps theirs.

    Raises:
        TypeError: torch has no tensors of the arrays' dtype.
    """
    if isinstance(inputs[0], dict):
        return type(inputs[0])((name, join([x[name] for x in inputs], dtype)) for name in inputs[0])
    if isinstance(inputs[0], torch.Tensor):
        return inputs[0] if len(inputs) == 1 else torch.cat(list(inputs))
    if len(inputs) == 1:
        return torch.from_numpy(np.array(inputs[0], dtype=dtype, order="C"))
    return torch.from_numpy(np.concatenate(inputs, dtype=dtype, casting="same_kind"))


# What a list has one of for each row: text, a number.
_SINGLE = (str, bytes, int, float)


def split(output: Any, rows: Sequence[int]) -> list[Any]:
    """Divide a batch's output among requests of so many rows each.

    A tensor (or array) is cut along dimension 0; lists, tuples, dicts and dataclasses of them are cut inside, each
    request getting the same structure. A list of strings or numbers has one for each row. The parts are views.

    Raises:
        NotSplittableError: some part of the output has no row for each of the batch's rows.
    """
    if isinstance(output, torch.Tensor | np.ndarray):
        total = sum(rows)
        if output.ndim == 0 or output.shape[0] != total:
            raise NotSplittableError(
                f"the model answered {total} rows with shape {tuple(output.shape)}, dimension 0 is not "
                "their number"
            )
        return (
            list(torch.split(output, list(rows)))
            if isinstance(output, torch.Tensor)
            else _slices(output, rows)
        )
    if isinstance(output, dict) and output:
        columns = [split(value, rows) for value in output.values()]
        rebuilt = [dict(zip(output, parts, strict=True)) for parts in zip(*columns, strict=True)]
        if output.__class__ is dict:
            return rebuilt
        try:  # such as the output classes of transformers, which postprocess reads by attribute
            return [type(output)(**parts) for parts in rebuilt]
        except TypeError as error:
            raise NotSplittableError(
                f"a {type(output).__name__} cannot be made of its items: {error}"
            ) from error
    if isinstance(output, Answer):
        return [output.with_payload(part) for part in split(output.payload, rows)]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        fields = {
            field.name: getattr(output, field.name) for field in dataclasses.fields(output) if field.init
        }
        return [dataclasses.replace(output, **part) for part in split(fields, rows)]
    if isinstance(output, list) and output and all(isinstance(v, _SINGLE) for v in output):
        if len(output) != sum(rows):
            raise NotSplittableError(
                f"the model answered {sum(rows)} rows with a list of {len(output)} values"
            )
        return _slices(output, rows)
    if isinstance(output, list | tuple) and output:
        per_part = [split(value, rows) for value in output]
        if hasattr(output, "_fields"):
            return [type(output)(*parts) for parts in zip(*per_part, strict=True)]
        return [type(output)(parts) for parts in zip(*per_part, strict=True)]
    raise NotSplittableError(
        f"the model answered with a {type(output).__name__}, empty or not of tensors, so it has no rows"
    )


def _slices(sequence: Any, rows: Sequence[int]) -> list[Any]:
    parts = []
    start = 0
    for n in rows:
        parts.append(sequence[start : start + n])
        start += n
    return parts


def pad_rows(inputs: Sequence[Any], rows: int) -> list[Any]:
    """The inputs of one call and one more that makes them rows together, for calls that take fixed numbers only.

    The filler repeats the last row, which the model can digest as well as that one (zeros where there is no row). It is
    a view: nothing is copied before `join`. The output is cut with `cut_rows`.

    Args:
        inputs: as for `join`.
        rows: the wanted sum of their dimensions 0; no less than it is.
    """
    if isinstance(inputs[0], dict):
        columns = {name: pad_rows([x[name] for x in inputs], rows) for name in inputs[0]}
        filled = max(map(len, columns.values()), default=0)
        return [type(inputs[0])((name, column[i]) for name, column in columns.items()) for i in range(filled)]
    last = next((x for x in reversed(inputs) if len(x)), inputs[-1])
    missing = rows - sum(len(x) for x in inputs)
    if missing <= 0:
        return list(inputs)
    shape = (missing, *last.shape[1:])
    filler: Any
    if isinstance(last, torch.Tensor):
        filler = last[-1:].expand(shape) if len(last) else last.new_zeros(shape)
    else:
        filler = np.broadcast_to(last[-1:], shape) if len(last) else np.zeros(shape, last.dtype)
    return [*inputs, filler]


def cut_rows(output: Any, padded: int, rows: int) -> Any:
    """The first rows of the output of a call that `pad_rows` filled up to padded rows, in the same structure.

    Raises:
        NotSplittableError: as split.
    """
    return output if rows == padded else split(output, [rows, padded - rows])[0]


def to_numpy(output: Any) -> Any:
    """The same structure with arrays in the place of tensors; bfloat16, which numpy lacks, becomes
    float32.
    """
    if isinstance(output, torch.Tensor):
        tensor = output.detach().cpu()
        if tensor.dtype is torch.bfloat16:
            tensor = tensor.float()
        return tensor.resolve_conj().resolve_neg().numpy()
    if isinstance(output, dict):
        return {key: to_numpy(value) for key, value in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: to_numpy(getattr(output, field.name)) for field in dataclasses.fields(output)}
    if isinstance(output, list | tuple):
        return [to_numpy(value) for value in output]
    return output


def plain(output: Any) -> Any:
    """The default postprocess: arrays stay arrays, a list of equal arrays becomes one array with a new first
    dimension.

    Other structures keep their form with arrays in it: each protocol makes of them what it can carry.
    """
    output = to_numpy(output)
    if isinstance(output, list) and output and all(isinstance(v, np.ndarray) for v in output):
        first = output[0]
        if all(v.shape == first.shape and v.dtype == first.dtype for v in output):
            return np.array(output)
    return output


def plain_parts(output: Any, rows: Sequence[int]) -> list[Any]:
    """`plain` of every part of `split`, converting the batch as a whole where that gives the same answers.

    Raises:
        NotSplittableError: as split.
    """
    output = to_numpy(output)
    if isinstance(output, list) and output and all(isinstance(v, np.ndarray) for v in output):
        first = output[0]
        if all(v.shape == first.shape and v.dtype == first.dtype for v in output):
            if first.ndim == 0 or first.shape[0] != sum(rows):
                split(first, rows)  # raises
            stacked = np.array(output)
            parts = []
            start = 0
            for n in rows:
                parts.append(stacked[:, start : start + n])
                start += n
            return parts
    if isinstance(output, np.ndarray):
        return split(output, rows)
    return [plain(part) for part in split(output, rows)]


def listed(output: Any) -> Any:
    """The same structure with nested Python lists in the place of arrays, and Python numbers in that of
    numpy's.
    """
    if isinstance(output, np.ndarray | np.generic):
        return output.tolist()
    if isinstance(output, torch.Tensor):
        return to_numpy(output).tolist()
    if isinstance(output, dict):
        return {key: listed(value) for key, value in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return listed(to_numpy(output))
    if isinstance(output, list | tuple):
        return [listed(value) for value in output]
    return output
