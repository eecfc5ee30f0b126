"""Puts calls on model threads, and, where it is switched on, rows of several calls into one run.

Without batching each call is a run of its own. With it, calls of one signature whose rows have equal shapes
share a run when the signature declares a first dimension of any size on every input and output; a model
whose rows influence each other must not be served so, which is why, as in TensorFlow Serving, batching is
the operator's choice. What a run must look like then, its number of rows and equal lengths, is said by
`batch_rules`.

Calls that are quicker than the way to a model thread and back run on the event loop's thread; see `pace`.
Measured with half_plus_two at 1, 16 and 64 in flight, CPU of the server per request: 279, 95 and 78 us so,
330, 134 and 90 us through the model threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from libs.serving.batcher import Batcher, BatchObserver, BatchPolicy
from libs.serving.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ServingError,
    Unavailable,
)
from services.tf_serving.execution.batch_rules import BatchRules, follow_rows, split
from services.tf_serving.execution.engine import Runner
from services.tf_serving.execution.pace import TINY_S, Pace

Arrays = list[NDArray[Any]]


@dataclass(slots=True, eq=False)
class Work:
    """One call: what runs, on what. `rows` is its share of a batch of `most`, `key` None when it must run alone."""

    runner: Runner
    arrays: Arrays
    rows: int
    key: Hashable
    rules: BatchRules
    most: int
    since: float = 0.0


class BatchSizes(Protocol):
    """Told about rows of calls that may share runs. Called from any thread."""

    def given(self, rows: int, inputs: int) -> None:
        """A call came with so many rows in each of its inputs."""

    def ran(self, rows: int, total: int, waited_s: Sequence[float]) -> None:
        """Rows of as many calls as waited share a run; it is filled up to `total` rows."""


class Scheduler:
    """The model threads of one server.

    Args:
        threads: calls that may be inside the runtime at a time.
        max_queue: most calls (with batching: rows) that wait; more are refused with ResourceExhausted.
        max_batch_rows: most rows in one run; None for no batching.
        max_delay_ms: how long an incomplete batch may wait for company under concurrent traffic.
        rules: what batches must look like, but of models that have rules of their own.
        sizes: told about batches, with batching.
        in_place: whether quick calls may run on the event loop's thread.
        clock: seconds; the clock of the deadlines.
    """

    def __init__(
        self,
        *,
        threads: int,
        max_queue: int,
        max_batch_rows: int | None = None,
        max_delay_ms: float = 0.0,
        rules: BatchRules | None = None,
        observer: BatchObserver | None = None,
        sizes: BatchSizes | None = None,
        in_place: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.batching = max_batch_rows is not None
        self._max_rows = max_batch_rows or 1
        self._rules = (rules if self.batching else None) or BatchRules()
        policy = BatchPolicy(self._max_rows, max(max_queue, self._max_rows), max_delay_ms)
        self._in_place = in_place
        self._clock = clock
        self._observer = observer
        self._sizes = sizes
        self._paces: WeakKeyDictionary[Runner, Pace] = WeakKeyDictionary()
        self._present = 0
        self._closed = False
        self._batcher: Batcher[Work, Arrays] = Batcher(
            self._run_batch,
            policy,
            size=lambda work: work.rows,
            key=lambda work: work.key,
            limit=lambda work: work.most,
            threads=threads,
            clock=clock,
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
        rules: BatchRules | None = None,
    ) -> Arrays:
        """Run one call and wait for its outputs.

        Args:
            batch_key: calls of equal keys may share a run, rows first; None when the signature does not
                allow it.
            rules: of the model, the same for equal keys; None: the scheduler's.

        Raises:
            InvalidArgument: it has more rows than a request may have.
            ResourceExhausted, DeadlineExceeded, Cancelled, Unavailable: it was not run.
            ServingError: the model refused it.
        """
        self._present += 1
        try:
            if rules is None or not self.batching:
                rules, most = self._rules, self._max_rows
            else:
                most = min(rules.max_rows or self._max_rows, self._max_rows)
            rows = self._shared_rows(arrays) if self.batching and batch_key is not None else 0
            if rows and self._sizes is not None:
                self._sizes.given(rows, len(arrays))
            if rows > most and rules.max_request_rows is not None:
                return await self._run_in_parts(
                    runner, arrays, rows, batch_key, deadline, cancelled, rules, most
                )
            if self._in_place and not self._batcher.queued_items:
                now = self._clock()
                pace = self._pace(runner)
                if pace.in_place(_size(arrays), now, alone=self._present == 1):
                    self._check(deadline, cancelled, now)
                    return self._run_here(runner, arrays, rows, pace, now, rules)
            work = self._work(runner, arrays, rows, batch_key, rules, most)
            return await self._batcher.submit(work, deadline=deadline, cancelled=cancelled)
        finally:
            self._present -= 1

    async def close(self, drain_deadline_s: float) -> bool:
        """Refuse new calls, let queued ones run until the deadline; whether all threads have ended."""
        self._closed = True
        return await self._batcher.close(drain_deadline_s)

    async def _run_in_parts(
        self,
        runner: Runner,
        arrays: Arrays,
        rows: int,
        batch_key: Hashable,
        deadline: float | None,
        cancelled: Callable[[], bool],
        rules: BatchRules,
        most: int,
    ) -> Arrays:
        """Run a call of more rows than a run may have, `most`, as several, each with the others' company."""
        allowed = rules.max_request_rows
        if allowed is not None and rows > allowed:
            raise InvalidArgument(f"Task size {rows} is larger than maximum input batch size {allowed}")
        works = []
        for first in range(0, rows, most):
            part = [array[first : first + most] for array in arrays]
            works.append(self._work(runner, part, part[0].shape[0], batch_key, rules, most))
        answers = await asyncio.gather(
            *[self._batcher.submit(work, deadline=deadline, cancelled=cancelled) for work in works],
            return_exceptions=True,
        )
        done = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            done.append(answer)
        return [np.concatenate(parts) for parts in zip(*done, strict=True)]

    def _shared_rows(self, arrays: Arrays) -> int:
        """Rows of a call that other calls' rows may be put beside; 0 for one that must run as it is."""
        first = arrays[0].shape
        rows: int = first[0] if first else 0
        for array in arrays:
            if array.shape[:1] != first[:1]:
                return 0
        return rows

    def _work(
        self, runner: Runner, arrays: Arrays, rows: int, batch_key: Hashable, rules: BatchRules, most: int
    ) -> Work:
        since = 0.0 if self._sizes is None else self._clock()
        work = Work(runner, arrays, 1, None, rules, most, since)
        if not self.batching:
            return work
        shape = rules.shape_key(arrays) if 0 < rows <= most else None
        # An empty call has no rows to share, one beyond a full batch would be refused by the queue: both
        # run alone.
        work.key = work if shape is None else (batch_key, shape)  # a work is equal to nothing else
        work.rows = min(max(rows, 1), most)
        return work

    def _pace(self, runner: Runner) -> Pace:
        pace = self._paces.get(runner)
        if pace is None:
            pace = self._paces[runner] = Pace()
        return pace

    def _check(self, deadline: float | None, cancelled: Callable[[], bool], now: float) -> None:
        """What the queue checks of calls that go through it."""
        if self._closed:
            raise Unavailable("the server is shutting down")
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded("the deadline passed before the request could run")
        if cancelled():
            raise Cancelled("the caller went away before the request could run")

    def _run_here(
        self, runner: Runner, arrays: Arrays, rows: int, pace: Pace, start: float, rules: BatchRules
    ) -> Arrays:
        if rows and self._sizes is not None:
            self._sizes.ran(rows, rules.rows_of_run(rows), (0.0,))
        try:
            return _model(runner, arrays, rows, rules) if rules.allowed_rows else runner(arrays)
        finally:
            end = self._clock()
            pace.observe(end - start, _size(arrays), end)
            if self._observer is not None:
                self._observer.ran(1, 1, 0.0, end - start)

    def _run_batch(self, batch: Sequence[Work]) -> Sequence[Arrays | Exception]:
        """Run works of one key: a single one as it is, several as one. If a shared run is refused, each runs
        alone, so that one bad request fails alone."""
        if self._sizes is not None and batch[0].key is not None and batch[0].key is not batch[0]:
            now, rows = self._clock(), sum([work.rows for work in batch])
            waited = [now - work.since for work in batch]
            self._sizes.ran(rows, batch[0].rules.rows_of_run(rows), waited)
        if len(batch) > 1:
            start = self._clock()
            try:
                answers = _run_together(batch)
            except ServingError:
                pass
            else:
                end = self._clock()
                if end - start <= TINY_S:  # then each alone is tiny too; a longer batch says nothing of that
                    size = max(_size(work.arrays) for work in batch)
                    self._pace(batch[0].runner).observe(end - start, size, end)
                return answers
        return [self._run_alone(work) for work in batch]

    def _run_alone(self, work: Work) -> Arrays | Exception:
        start = self._clock()
        try:
            return _model(work.runner, work.arrays, 0 if work.key is work else work.rows, work.rules)
        except ServingError as error:
            return error
        finally:
            end = self._clock()
            self._pace(work.runner).observe(end - start, _size(work.arrays), end)


_NOT_ROWS = (
    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
    "input tensors: this model cannot be served with batching"
)


def _size(arrays: Arrays) -> int:
    """Bytes of the inputs, a string counting as a pointer: a measure of how much work a call is."""
    return sum([array.nbytes for array in arrays])


def _model(runner: Runner, arrays: Arrays, rows: int, rules: BatchRules) -> Arrays:
    """Run one call by itself, at a number of rows that is allowed."""
    total = rules.rows_of_run(rows) if rows else 0
    if total == rows:
        return runner(arrays)
    outputs = runner(rules.merge([arrays]))
    if not follow_rows(outputs, total):
        raise FailedPrecondition(_NOT_ROWS)
    return [output[:rows] for output in outputs]


def _run_together(batch: Sequence[Work]) -> list[Arrays]:
    rules = batch[0].rules
    rows = [work.rows for work in batch]
    outputs = batch[0].runner(rules.merge([work.arrays for work in batch]))
    if not follow_rows(outputs, rules.rows_of_run(sum(rows))):
        raise FailedPrecondition(_NOT_ROWS)
    return split(outputs, rows)
