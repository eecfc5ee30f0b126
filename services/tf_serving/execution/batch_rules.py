"""How calls become one run's tensors and a run's outputs become answers. Pure.

The rules are those of TensorFlow Serving's BatchingSession (batching/{batching_session,batching_util}.cc).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class BatchRules:
    """What an operator may ask of batches beyond their size and their wait.

    Attributes:
        allowed_rows: rows that a run may have, ascending; it is filled up to the next of them with copies of
            the first row of its last call. For models compiled for these sizes alone.
        pad_ragged: calls whose sizes differ beyond the first dimension may share a run: each tensor is filled
            up to the largest sizes with copies of its own first element, as TensorFlow Serving does.
        max_request_rows: a call of more rows is refused; one of more rows than a run may have is run in parts.
            None: a call of any size is run, as it is and alone if it is larger than a batch.
        max_rows: most rows of a run, where they are fewer than the server's.
    """

    allowed_rows: tuple[int, ...] = ()
    pad_ragged: bool = False
    max_request_rows: int | None = None
    max_rows: int | None = None

    def shape_key(self, arrays: Arrays) -> Hashable:
        """Calls of equal keys fit into one run; None for a call that fits with no other."""
        if not self.pad_ragged:
            return tuple([array.shape[1:] for array in arrays])
        # What has no element has none to be filled up with.
        return tuple([array.ndim for array in arrays]) if all(array.size for array in arrays) else None

    def rows_of_run(self, rows: int) -> int:
        """Rows that a run of so many must have."""
        place = bisect_left(self.allowed_rows, rows)
        return self.allowed_rows[place] if place < len(self.allowed_rows) else rows

    def merge(self, calls: Sequence[Arrays]) -> list[NDArray[Any]]:
        """The inputs of one run from those of its calls, which have equal keys."""
        rows = sum(arrays[0].shape[0] for arrays in calls)
        more = self.rows_of_run(rows) - rows
        if not more and len(calls) == 1:
            return list(calls[0])
        return [self._joined(parts, more) for parts in zip(*calls, strict=True)]

    def _joined(self, parts: Sequence[NDArray[Any]], more: int) -> NDArray[Any]:
        if self.pad_ragged:
            sizes = np.max([part.shape[1:] for part in parts], axis=0).astype(int)
            parts = [_filled_up(part, tuple(sizes)) for part in parts]
        filling = [np.repeat(parts[-1][:1], more, axis=0)] if more else []
        return np.concatenate([*parts, *filling])


def follow_rows(outputs: Arrays, rows: int) -> bool:
    """Whether every output has a row for each of so many."""
    return all(output.ndim and output.shape[0] == rows for output in outputs)


def split(outputs: Arrays, rows: Sequence[int]) -> list[list[NDArray[Any]]]:
    """Each call's outputs from those of their run, whose first rows are theirs in order."""
    answers, first = [], 0
    for count in rows:
        answers.append([output[first : first + count] for output in outputs])
        first += count
    return answers


def _filled_up(array: NDArray[Any], sizes: tuple[int, ...]) -> NDArray[Any]:
    if array.shape[1:] == sizes:
        return array
    filled = np.full((array.shape[0], *sizes), array.flat[0], array.dtype)
    filled[tuple([slice(size) for size in array.shape])] = array
    return filled
