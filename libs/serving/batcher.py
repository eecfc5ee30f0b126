"""The batching shell: model threads around the pure `BatchQueue`.

Who does what:
- `submit` runs on the event loop. It offers the item under the lock and, if a model thread sleeps, opens its
  gate.
- A model thread takes the next batch itself, straight from the queue, runs it without the lock, and hands all
  results to the loop in one `call_soon_threadsafe`. Batches therefore follow each other without a turn of the
  event loop between them: a device is not left idle while the loop is busy.
- A gate is a bare `threading.Lock` that its thread blocks on. It is the cheapest wake-up CPython has (one
  futex, no Python code); `Condition` and `Queue` are built of several of these in Python.

A caller that stops waiting (its task is cancelled: deadline, disconnect) withdraws its item, which frees its
rows at once. What runs already runs to its end; its result is thrown away.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from libs.serving.batch_observer import BatchObserver, Unobserved
from libs.serving.batching import BatchPolicy, BatchQueue, State, Take, Ticket
from libs.serving.call import never_cancelled
from libs.serving.defects import defect
from libs.serving.errors import Cancelled, DeadlineExceeded, ResourceExhausted, ServingError, Unavailable

T = TypeVar("T")
R = TypeVar("R")

Run = Callable[[Sequence[T]], Sequence[R | Exception]]

log = logging.getLogger(__name__)

__all__ = ["BatchObserver", "BatchPolicy", "Batcher"]


class _Pending(Ticket[T], Generic[T, R]):
    __slots__ = ("future",)

    def __init__(
        self,
        item: T,
        rows: int,
        key: Hashable,
        deadline: float | None,
        cancelled: Callable[[], bool],
        priority: int,
        future: asyncio.Future[R],
    ) -> None:
        Ticket.__init__(self, item, rows, key, deadline, cancelled, priority)
        self.future = future


@dataclass(slots=True)
class _Ran(Generic[T, R]):
    """A batch that has run, its results yet to be delivered."""

    take: Take[_Pending[T, R]]
    results: Sequence[R | Exception]
    end: float


def _shown(error: BaseException) -> ServingError:
    """What callers see of an exception out of a model run."""
    return error if isinstance(error, ServingError) else defect("a model run", error)


class Batcher(Generic[T, R]):
    """Dynamic batching on dedicated model threads.

    Args:
        run: called on a model thread with 1 or more items of one key, at most `max_batch_size` rows together;
            answers one result per item in order. An `Exception` in an item's place fails that item alone. If
            `run` raises, all items of the batch fail: with that error if it is a `ServingError`, else with
            Internal. A sequence of them gets a thread each, all fed from one queue: one a model instance.
        policy: bounds; see `BatchPolicy`.
        size: rows of an item.
        key: items of equal keys may share a batch; hashable.
        limit: most rows of a batch of an item's key, for keys that bear fewer than the policy's.
        threads: how many batches may run at a time; of a single `run` only.
        thread_init: called first on each model thread, for what a library keeps per thread. PyTorch's
            `set_num_threads` is such a setting: a thread that does not call it runs matrix products on one
            OpenMP thread per core, whatever was set elsewhere (seen: 8 to 16 times the CPU for a small
            model). If it raises, every run on that thread fails with the same error.
        clock: seconds; the clock of the deadlines given to `submit`.
        observer: told about batches and drops.
        name: of the threads, for profilers and stack dumps.

    A batcher belongs to the event loop of its first `submit`. The threads start with it and are daemons: a
    model that hangs cannot keep the process alive.
    """

    def __init__(
        self,
        run: Run[T, R] | Sequence[Run[T, R]],
        policy: BatchPolicy,
        *,
        size: Callable[[T], int],
        key: Callable[[T], Hashable],
        limit: Callable[[T], int] | None = None,
        threads: int = 1,
        thread_init: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        observer: BatchObserver | None = None,
        name: str = "model",
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}: expected at least 1")
        if callable(run):
            runs: list[Run[T, R]] = [run] * threads
        else:
            runs = list(run)
            if threads != 1 or not runs:
                raise ValueError(
                    f"{len(runs)} runs and {threads} threads: expected a run or more, one thread each"
                )
        self._thread_init = thread_init
        self._size = size
        self._key = key
        self._clock = clock
        self._observer: BatchObserver = observer if observer is not None else Unobserved()
        self._queue: BatchQueue[_Pending[T, R]] = BatchQueue(
            policy, len(runs), None if limit is None else lambda pending: limit(pending.item)
        )
        self._lock = threading.Lock()
        self._idle: list[Any] = (
            []
        )  # gates (threading.Lock) of sleeping threads, the last to fall asleep on top
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drained: asyncio.Future[None] | None = None
        self._running_rows = 0
        self._threads = [
            threading.Thread(target=self._work, args=(run,), name=f"{name}-{i}", daemon=True)
            for i, run in enumerate(runs)
        ]
        self._alive = len(runs)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a model thread."""
        return self._queue.rows

    @property
    def queued_items(self) -> int:
        """Items that wait for a model thread."""
        return self._queue.items

    @property
    def running_rows(self) -> int:
        """Rows inside `run` now."""
        return self._running_rows

    def start_by(self, deadline: float, now: float) -> float:
        """When a run must begin to end by the deadline; for runs that the owner does without the batcher.

        Raises:
            DeadlineExceeded: no run can end by then.
        """
        with self._lock:
            return self._queue.cost.start_by(deadline, now)

    def observe(self, seconds: float, rows: int, now: float) -> None:
        """Reports a run that the owner did without the batcher: it tells what runs take as well as others."""
        with self._lock:
            self._queue.cost.observe(seconds, rows, now)

    async def submit(
        self,
        item: T,
        *,
        deadline: float | None = None,
        cancelled: Callable[[], bool] = never_cancelled,
        priority: int = 0,
    ) -> R:
        """Queues an item and waits for its result.

        Args:
            item: what `run` gets.
            deadline: when the answer must be there, on `clock`; an item that a run could not answer by then never
                runs.
            cancelled: asked just before the item would run, on any thread; True drops it.
            priority: smaller runs sooner; see `BatchQueue`.

        Raises:
            InvalidArgument: more rows than `max_batch_size`, or none.
            ResourceExhausted: the queue is full, or too long for the deadline; or, while it was queued, the queue was
                full and a higher priority took its place.
            DeadlineExceeded: the deadline passed while it was queued, or is sooner than a run could end.
            Cancelled: `cancelled` said so while it was queued.
            Unavailable: the batcher is closed.
            Internal: `run` raised something that is no `ServingError`, or answered a wrong number of results.
            ServingError: `run` raised or answered it.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._start(loop)
        pending: _Pending[T, R] = _Pending(
            item, self._size(item), self._key(item), deadline, cancelled, priority, loop.create_future()
        )
        with self._lock:
            if self._closed:
                raise Unavailable("the server is shutting down")
            try:
                shed = self._queue.offer(pending, self._clock())
            except ServingError:
                self._observer.dropped("rejected", 1)
                raise
            gate = self._idle.pop() if self._idle and self._queue.wakes else None
        if gate is not None:
            gate.release()
        if shed:
            self._deliver_shed(shed)
        try:
            return await pending.future
        except asyncio.CancelledError:
            with self._lock:
                withdrawn = self._queue.withdraw(pending)
            if withdrawn:
                self._observer.dropped("withdrawn", 1)
            raise

    async def close(self, drain_deadline_s: float = 0.0) -> bool:
        """Refuses new items, lets the queued ones run until the deadline, fails the rest with Unavailable.

        Answers whether all threads have ended; False means that a run was still going on at the deadline.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            first, self._closed = not self._closed, True
            if self._loop is None:
                self._loop, self._alive = loop, 0  # never started
                self._threads.clear()  # they refer to this batcher until they have run, and it to them
            if self._alive == 0:
                return True
            if self._drained is None:
                self._drained = loop.create_future()
            gates, self._idle = self._idle, []
        if first:
            for gate in gates:
                gate.release()
        done, _ = await asyncio.wait([self._drained], timeout=drain_deadline_s)
        if done:
            return True
        with self._lock:
            left = self._queue.drain()
        if left:
            self._observer.dropped("closed", len(left))
        for pending in left:
            if not pending.future.done():
                pending.future.set_exception(Unavailable("the server shut down before the request could run"))
        return self._alive == 0

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._loop is not None:
                if self._closed:
                    raise Unavailable("the server is shutting down")
                raise RuntimeError("a Batcher belongs to the event loop of its first submit")
            self._loop = loop
        for thread in self._threads:
            thread.start()

    def _work(self, run: Run[T, R]) -> None:
        """Life of a model thread.

        A batch's results are delivered after the next batch is taken, a few microseconds later: what follows
        the wake-up of the event loop competes with it for Python's lock, so that is nothing but the next run
        or the sleep.
        """
        gate = threading.Lock()
        gate.acquire()
        run = self._initialised(run)
        ran: _Ran[T, R] | None = None
        while True:
            now = self._clock()
            other = None
            ending = False
            with self._lock:
                if ran is not None:
                    self._queue.finished(ran.take, ran.end, failed=isinstance(ran.results[0], Exception))
                    self._running_rows -= ran.take.rows
                take = self._queue.take(now)
                self._running_rows += take.rows
                if take.batch:
                    if self._queue.items and self._idle:
                        other = self._idle.pop()  # more than one batch waits: pass the wake-up on
                elif self._closed and not self._queue.items:
                    ending = True
                else:
                    self._idle.append(gate)
            if other is not None:
                other.release()
            if take.dropped:
                self._call(self._deliver_dropped, take.dropped)
            if ran is not None:
                self._call(self._deliver, ran)
                ran = None
            if take.batch:
                ran = self._run_batch(run, take)
            elif ending:
                self._call(self._ended)
                return
            else:
                self._sleep(gate, take.wake_at)

    def _sleep(self, gate: Any, wake_at: float | None) -> None:
        """Waits until `submit` opens the gate, or `wake_at` comes."""
        if wake_at is None:
            gate.acquire()
            return
        if gate.acquire(timeout=max(wake_at - self._clock(), 0.0)):
            return
        with self._lock:
            if gate in self._idle:
                self._idle.remove(gate)
                return
        gate.acquire()  # a submit took the gate off the list just now; its release is on the way

    def _initialised(self, run: Run[T, R]) -> Run[T, R]:
        if self._thread_init is not None:
            try:
                self._thread_init()
            except BaseException as error:
                cause = error

                def fail(items: Sequence[T]) -> Sequence[R | Exception]:
                    raise cause

                return fail
        return run

    def _run_batch(self, run: Run[T, R], take: Take[_Pending[T, R]]) -> _Ran[T, R]:
        items = [pending.item for pending in take.batch]
        results: Sequence[R | Exception]
        try:
            results = run(items)
            if len(results) != len(items):
                raise TypeError(f"run answered {len(results)} results to {len(items)} items")
        except BaseException as error:  # a model thread outlives whatever a model does
            results = [_shown(error)] * len(items)
        return _Ran(take, results, self._clock())

    def _call(self, callback: Callable[..., None], *args: object) -> None:
        loop = self._loop
        assert loop is not None
        try:
            loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("results of a batch came after the event loop's end")

    def _deliver(self, ran: _Ran[T, R]) -> None:
        take = ran.take
        batch = take.batch
        self._observer.ran(len(batch), take.rows, take.started - batch[0].arrived, ran.end - take.started)
        for pending, result in zip(batch, ran.results, strict=True):
            future = pending.future
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(_shown(result))
            else:
                future.set_result(result)

    def _deliver_dropped(self, dropped: list[_Pending[T, R]]) -> None:
        expired = 0
        for pending in dropped:
            late = pending.state is State.EXPIRED
            expired += late
            if not pending.future.done():
                pending.future.set_exception(
                    DeadlineExceeded("the request was queued for so long that no answer could be in time")
                    if late
                    else Cancelled("the caller went away while the request was queued")
                )
        if expired:
            self._observer.dropped("expired", expired)
        if len(dropped) > expired:
            self._observer.dropped("cancelled", len(dropped) - expired)

    def _deliver_shed(self, shed: Sequence[_Pending[T, R]]) -> None:
        self._observer.dropped("shed", len(shed))
        for pending in shed:
            if not pending.future.done():
                pending.future.set_exception(
                    ResourceExhausted("the queue is full, and a request of higher priority took the place")
                )

    def _ended(self) -> None:
        self._alive -= 1
        if self._alive == 0 and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
