"""Watching calls: cost in memory, and what is left alone."""

from __future__ import annotations

import asyncio
import time

from libs.serving.inflight import InFlight, LiveCall


async def test_ended_calls_leave_the_heap_long_before_their_deadline() -> None:
    loop = asyncio.get_running_loop()
    watch = InFlight()
    now = time.monotonic()
    for number in range(10_000):
        call = LiveCall(None, None, now)
        call.deadline = now + 3600 + number
        watch.add(call, loop)
        watch.remove(call)
    assert len(watch) == 0
    assert len(watch._heap) < 2000


async def test_removal_is_final_and_may_repeat() -> None:
    loop = asyncio.get_running_loop()
    watch = InFlight()
    task = asyncio.create_task(asyncio.sleep(0.1, "done"))
    call = LiveCall(task, None, time.monotonic())
    call.deadline = time.monotonic() + 0.01
    call.reading = False
    watch.add(call, loop)
    watch.remove(call)
    watch.remove(call)
    assert await task == "done"
    assert not call.expired
    assert call.cancelled(), "what an ended call has queued is not wanted any more"


async def test_a_call_that_is_still_read_is_marked_but_not_interrupted() -> None:
    loop = asyncio.get_running_loop()
    watch = InFlight()
    task = asyncio.create_task(asyncio.sleep(0.1, "read"))
    call = LiveCall(task, None, time.monotonic())
    call.deadline = time.monotonic() + 0.01
    watch.add(call, loop)
    assert await task == "read"
    assert call.expired
    assert call.cancelled()
    watch.remove(call)


async def test_an_earlier_deadline_moves_the_timer() -> None:
    loop = asyncio.get_running_loop()
    watch = InFlight()
    begin = time.monotonic()
    tasks = []
    for timeout in (30.0, 0.05):
        task = asyncio.create_task(asyncio.sleep(60))
        call = LiveCall(task, None, begin)
        call.deadline = begin + timeout
        call.reading = False
        watch.add(call, loop)
        tasks.append(task)
    done, pending = await asyncio.wait(tasks, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert done == {tasks[1]}
    assert 0.05 <= time.monotonic() - begin < 2
    tasks[0].cancel()
    await asyncio.wait(pending)
