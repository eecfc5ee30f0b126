"""Calls in flight of one server: their deadlines, and finding out that a caller has gone.

Deadlines: a heap with one event-loop timer for its earliest entry. A call costs one heap push, while a timer
    of its own
would cost several times that; with equal timeouts the timer is not even moved. The timer is exact to the
event loop's millisecond, and never early.

Callers that leave: after the request body ASGI's `receive` is the only source of `http.disconnect`. A server
may hold it until that happens, or answer an empty `http.request` at once (pyvoy does), so it must be polled.
A poll costs a trip through the server's I/O thread. Calls are therefore left alone for their first
`FIRST_POLL_S`, which most never reach, and are then asked at 1, 2, 4, ... times that age, at most
`MAX_POLL_S` apart: whoever has waited for a time t was seen alive within the last t / 2, at a cost that grows
with log t.

In both cases the call's task is cancelled, which withdraws what it has queued in a `Batcher`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from heapq import heapify, heappop, heappush
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

FIRST_POLL_S = 0.010
MAX_POLL_S = 1.0
# libuv counts whole milliseconds from the start of the loop's turn; a shorter timer would spin.
_MIN_TIMER_S = 0.001
# Entries of ended calls stay in the heap until it holds this many more than calls are in flight.
_HEAP_SLACK = 256


class LiveCall:
    """State of one call, shared by its task and the watch.

    Attributes:
        gone: the caller has disconnected.
        expired: the deadline has passed.
        done: the handler has ended; the watch leaves the call alone.
        reading: the request body is still being read, so `receive` belongs to the reader.
    """

    __slots__ = (
        "deadline",
        "done",
        "expired",
        "gone",
        "next_poll",
        "polling",
        "reading",
        "receive",
        "since",
        "task",
    )

    def __init__(self, task: asyncio.Task[Any] | None, receive: Receive | None, since: float) -> None:
        self.task = task
        self.receive = receive
        self.since = since
        self.deadline: float | None = None
        self.gone = False
        self.expired = False
        self.done = False
        self.reading = True
        self.next_poll = since + FIRST_POLL_S
        self.polling: asyncio.Task[None] | None = None

    def cancelled(self) -> bool:
        """Whether the caller no longer waits for the answer. Any thread may ask."""
        return self.gone or self.expired or self.done

    def abandon(self) -> None:
        """Stops the handler, unless it is still reading: its reader sees the disconnect, or the flags,
        itself.

        A pending `receive` is not cancelled because pyvoy completes its future later all the same, and would
        log an InvalidStateError for each.
        """
        if not self.reading and not self.done and self.task is not None:
            self.task.cancel()


class InFlight:
    """The calls in flight on one event loop. Used on that loop's thread only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: dict[LiveCall, None] = {}  # a dict keeps the order of arrival
        self._heap: list[tuple[float, int, LiveCall]] = []
        self._pushed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: LiveCall, loop: asyncio.AbstractEventLoop) -> None:
        """Watches a call until `remove`."""
        self._calls[call] = None
        deadline = call.deadline
        if deadline is not None:
            self._pushed += 1
            heappush(self._heap, (deadline, self._pushed, call))
            if deadline < self._timer_at:
                self._arm(deadline, loop)
            elif len(self._heap) > 2 * len(self._calls) + _HEAP_SLACK:
                self._heap = [entry for entry in self._heap if not entry[2].done]
                heapify(self._heap)
        if not self._sweeping and call.receive is not None:
            self._sweeping = True
            loop.call_later(FIRST_POLL_S, self._sweep, loop)

    def remove(self, call: LiveCall) -> None:
        """Ends the watch of a call: from here on it is not cancelled any more."""
        call.done = True
        call.task = call.receive = None  # its entry in the heap may live on for a while
        self._calls.pop(call, None)

    def _arm(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        # Rounded up to the next millisecond, since the loop's own clock has no finer one.
        delay = max(deadline - self._clock(), 0.0) + _MIN_TIMER_S
        self._timer = loop.call_later(delay, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._timer_at = float("inf")
        now = self._clock()
        heap = self._heap
        while heap:
            deadline, _, call = heap[0]
            if call.done:
                heappop(heap)
            elif deadline <= now:
                heappop(heap)
                call.expired = True
                call.abandon()
            else:
                self._arm(deadline, loop)
                return

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self._clock()
        for call in self._calls:
            if now - call.since < FIRST_POLL_S:
                break  # the rest is younger
            if (
                call.next_poll <= now
                and call.polling is None
                and not call.reading
                and call.receive is not None
            ):
                call.polling = loop.create_task(self._poll(call, call.receive))
        if self._calls:
            loop.call_later(FIRST_POLL_S, self._sweep, loop)
        else:
            self._sweeping = False

    async def _poll(self, call: LiveCall, receive: Receive) -> None:
        event = await receive()
        now = self._clock()
        call.next_poll = now + min(now - call.since, MAX_POLL_S)
        call.polling = None
        if event["type"] == "http.disconnect" and not call.done:
            call.gone = True
            call.abandon()
