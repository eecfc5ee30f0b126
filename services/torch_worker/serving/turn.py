"""Sharing calls of a quick model on the event loop's own thread.

Handing requests to a model thread costs two thread switches a batch, and PyTorch gives Python's lock up at every
operator, to be waited for again while the loop is busy: more than a tiny model's whole call. So calls of a model that
was seen to be quick (`quick`) run where the requests are. Those that come within a few turns of the loop share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import Any, Generic, TypeVar

from libs.serving.errors import Cancelled, DeadlineExceeded, ResourceExhausted

T = TypeVar("T")
R = TypeVar("R")


class Busy(Exception):  # noqa: N818 (it says how things are, and that is no error)
    """The model cannot be run here now without holding the loop up."""


# Turns of the loop without a newcomer, after which the call runs. Such a turn takes half a microsecond, and requests
# that a transport brings together arrive over several. Measured with the mmoe example at 16 calls in flight: 15 % less
# CPU a call with 6 turns than with 1, and waiting 20 to 80 µs for more company costs more than it saves.
_QUIET_TURNS = 4


class _Waiting(Generic[T, R]):
    __slots__ = ("arrived", "cancelled", "deadline", "future", "item", "key", "rows")

    def __init__(
        self,
        item: T,
        rows: int,
        key: Hashable,
        deadline: float | None,
        cancelled: Callable[[], bool],
        arrived: float,
        future: asyncio.Future[R],
    ) -> None:
        self.item = item
        self.rows = rows
        self.key = key
        self.deadline = deadline
        self.cancelled = cancelled
        self.arrived = arrived
        self.future = future


class Turn(Generic[T, R]):
    """What waits for the end of the loop's turn. Used on the event loop's thread.

    Args:
        run: answers items of one key, in order; an exception in an item's place fails that item alone. Gets also how
            long the first of them waited, in seconds. Raises Busy when it cannot be done here.
        elsewhere: answers an item in another way, by its deadline; for those that `run` was too busy for.
        max_rows: most rows in a run; an item of more runs alone.
        max_waiting_rows: most rows waiting; more are refused.
        clock: seconds; the deadlines' clock.
        dropped: told of items that were dropped before they ran: reason and number.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T], float], Sequence[R | Exception]],
        elsewhere: Callable[[T, float | None, Callable[[], bool]], Coroutine[Any, Any, R]],
        *,
        max_rows: int,
        max_waiting_rows: int,
        clock: Callable[[], float],
        dropped: Callable[[str, int], None],
    ) -> None:
        self._run = run
        self._elsewhere = elsewhere
        self._max_rows = max_rows
        self._max_waiting_rows = max_waiting_rows
        self._clock = clock
        self._dropped = dropped
        self._waiting: list[_Waiting[T, R]] = []
        self._seen = 0
        self._quiet = 0
        self._last = 0  # items of the last call
        self.rows = 0

    def submit(
        self,
        item: T,
        rows: int,
        key: Hashable,
        deadline: float | None,
        cancelled: Callable[[], bool],
        now: float,
    ) -> asyncio.Future[R]:
        """The future answer to an item.

        Raises:
            ResourceExhausted: too many rows wait.
        """
        if self.rows + rows > self._max_waiting_rows:
            self._dropped("rejected", 1)
            raise ResourceExhausted(
                f"the queue is full: {self.rows} of {self._max_waiting_rows} rows wait, {rows} more do not fit"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        if not self._waiting:
            self._begin(loop)
        self._waiting.append(_Waiting(item, rows, key, deadline, cancelled, now, future))
        self.rows += rows
        return future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._seen = self._quiet = 0
        loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = len(self._waiting)
        self._quiet = self._quiet + 1 if waiting == self._seen else 0
        self._seen = waiting
        # Who was alone last time is taken to be alone.
        enough = 1 if waiting == 1 and self._last == 1 else _QUIET_TURNS
        if self._quiet < enough and self.rows < self._max_rows:
            loop.call_soon(self._turn, loop)
            return
        self._last = waiting
        batch = self._take()
        if self._waiting:
            self._begin(loop)
        if batch:
            self._answer(batch)

    def _take(self) -> list[_Waiting[T, R]]:
        """The first that waits and those of its key, as far as they fit, without those whom nobody waits for."""
        now = self._clock()
        batch: list[_Waiting[T, R]] = []
        left: list[_Waiting[T, R]] = []
        room = self._max_rows
        for one in self._waiting:
            if one.future.done() or self._late(one, now):
                self.rows -= one.rows
            elif not batch or (one.key == batch[0].key and one.rows <= room):
                batch.append(one)
                room -= one.rows
                self.rows -= one.rows
            else:
                left.append(one)
        self._waiting = left
        return batch

    def _late(self, one: _Waiting[T, R], now: float) -> bool:
        if one.deadline is not None and one.deadline <= now:
            self._dropped("expired", 1)
            one.future.set_exception(DeadlineExceeded("the deadline passed while the request was queued"))
        elif one.cancelled():
            self._dropped("cancelled", 1)
            one.future.set_exception(Cancelled("the caller went away while the request was queued"))
        else:
            return False
        return True

    def _answer(self, batch: list[_Waiting[T, R]]) -> None:
        try:
            results = self._run([one.item for one in batch], self._clock() - batch[0].arrived)
        except Busy:
            for one in batch:
                self._hand_over(one)
            return
        except Exception as error:
            results = [error] * len(batch)
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                one.future.set_exception(result)
            else:
                one.future.set_result(result)

    def _hand_over(self, one: _Waiting[T, R]) -> None:
        task = asyncio.get_running_loop().create_task(self._elsewhere(one.item, one.deadline, one.cancelled))
        one.future.add_done_callback(lambda future: task.cancel())  # whoever waited is gone, or is answered

        def answered(task: asyncio.Task[R]) -> None:
            if task.cancelled():
                one.future.cancel()
                return
            error = task.exception()
            if one.future.done():
                return
            if error is not None:
                one.future.set_exception(error)
            else:
                one.future.set_result(task.result())

        task.add_done_callback(answered)
