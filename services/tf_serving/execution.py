"""Puts calls on model threads, and, where it is switched on, rows of several calls into one run.

Without batching each call is a run of its own. With it, calls of one signature whose rows have equal shapes
share a run when the signature declares a first dimension of any size on every input and output; a model
whose rows influence each other must not be served so, which is why, as in TensorFlow Serving, batching is
the operator's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.serving.batcher import Batcher, BatchObserver, BatchPolicy
from libs.serving.errors import FailedPrecondition, ServingError
from services.tf_serving.engine import Runner

Arrays = list[NDArray[Any]]


@dataclass(slots=True, eq=False)
class Work:
    """One call: what runs, on what. `rows` is its share of a batch, `key` None when it must run alone."""

    runner: Runner
    arrays: Arrays
    rows: int
    key: Hashable


class Execution:
    """The model threads of one server.

    Args:
        threads: calls that may be inside the runtime at a time.
        max_queue: most calls (with batching: rows) that wait; more are refused with ResourceExhausted.
        max_batch_rows: most rows in one run; None for no batching.
        max_delay_ms: how long an incomplete batch may wait for company under concurrent traffic.
    """

    def __init__(
        self,
        *,
        threads: int,
        max_queue: int,
        max_batch_rows: int | None = None,
        max_delay_ms: float = 0.0,
        observer: BatchObserver | None = None,
    ) -> None:
        self.batching = max_batch_rows is not None
        self._max_rows = max_batch_rows or 1
        policy = BatchPolicy(self._max_rows, max(max_queue, self._max_rows), max_delay_ms)
        self._batcher: Batcher[Work, Arrays] = Batcher(
            run_batch,
            policy,
            size=lambda work: work.rows,
            key=lambda work: work.key,
            threads=threads,
            observer=observer,
            name="tensorflow",
        )

    @property
    def queued(self) -> int:
        """Calls (with batching: rows) that wait."""
        return self._batcher.queued_rows

    async def run(
        self,
        runner: Runner,
        arrays: Arrays,
        *,
        batch_key: Hashable,
        deadline: float | None,
        cancelled: Callable[[], bool],
    ) -> Arrays:
        """Run one call and wait for its outputs.

        Args:
            batch_key: calls of equal keys may share a run, rows first; None when the signature does not
                allow it.

        Raises:
            ResourceExhausted, DeadlineExceeded, Cancelled, Unavailable: it was not run.
            ServingError: the model refused it.
        """
        work = Work(runner, arrays, 1, None)
        rows = arrays[0].shape[0] if batch_key is not None and arrays[0].ndim else 0
        # An empty call has no rows to share, one beyond a full batch would be refused by the queue: both
        # run alone.
        shares = self.batching and 0 < rows <= self._max_rows
        if shares and all(array.ndim and array.shape[0] == rows for array in arrays):
            work.rows = rows
            work.key = (batch_key, *[(array.dtype.char, array.shape[1:]) for array in arrays])
        elif self.batching:
            work.rows = min(max(rows, 1), self._max_rows)
            work.key = work  # equal to nothing else
        return await self._batcher.submit(work, deadline=deadline, cancelled=cancelled)

    async def close(self, drain_deadline_s: float) -> bool:
        """Refuse new calls, let queued ones run until the deadline; whether all threads have ended."""
        return await self._batcher.close(drain_deadline_s)


def run_batch(batch: Sequence[Work]) -> Sequence[Arrays | Exception]:
    """Run works of one key: a single one as it is, several as one. If a shared run is refused, each runs
    alone, so that one bad request fails alone."""
    if len(batch) > 1:
        try:
            return _run_together(batch)
        except ServingError:
            pass
    return [_run_alone(work) for work in batch]


def _run_alone(work: Work) -> Arrays | Exception:
    try:
        return work.runner(work.arrays)
    except ServingError as error:
        return error


def _run_together(batch: Sequence[Work]) -> list[Arrays]:
    joined = [np.concatenate(parts) for parts in zip(*[work.arrays for work in batch], strict=True)]
    outputs = batch[0].runner(joined)
    total = sum(work.rows for work in batch)
    if any(output.ndim == 0 or output.shape[0] != total for output in outputs):
        raise FailedPrecondition(
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
            "input tensors: this model cannot be served with batching"
        )
    answers, first = [], 0
    for work in batch:
        answers.append([output[first : first + work.rows] for output in outputs])
        first += work.rows
    return answers
