from __future__ import annotations

import asyncio

from services.tf_serving.serving.grace import Epoch, Grace


def begin(grace: Grace) -> Epoch:
    grace.epoch.calls += 1
    return grace.epoch


async def test_nothing_in_flight_needs_no_wait() -> None:
    assert await Grace().passed(0.0) == 0


async def test_calls_that_began_before_are_waited_for_and_later_ones_are_not() -> None:
    grace = Grace()
    first = begin(grace)
    waiting = asyncio.create_task(grace.passed(30))
    await asyncio.sleep(0)
    later = begin(grace)
    assert later is not first
    await asyncio.sleep(0.05)
    assert not waiting.done()
    first.calls -= 1
    assert await waiting == 0
    assert later.calls == 1


async def test_an_older_epoch_is_waited_for_too() -> None:
    grace = Grace()
    first = begin(grace)
    assert await grace.passed(0.0) == 1
    second = begin(grace)
    waiting = asyncio.create_task(grace.passed(30))
    await asyncio.sleep(0)
    second.calls -= 1
    await asyncio.sleep(0.05)
    assert not waiting.done()
    first.calls -= 1
    assert await waiting == 0
    assert await grace.passed(0.0) == 0
