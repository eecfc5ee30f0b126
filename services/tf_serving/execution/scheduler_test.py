from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from libs.serving.call import never_cancelled
from libs.serving.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    ServingError,
    Unavailable,
)
from services.tf_serving.execution.batch_rules import BatchRules
from services.tf_serving.execution.scheduler import Scheduler


class Model:
    """A runner that records what it runs on; `gate`, when closed, holds it."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        self.threads.add(threading.current_thread().name)
        self.calls.append([int(value) for value in arrays[0].ravel()])
        assert self.gate.wait(10)
        if (arrays[0] < 0).any():
            raise InvalidArgument("negative")
        return [arrays[0] * 10]


async def run(
    scheduler: Scheduler, model: Model, *values: int, key: object = "k", **kwargs: Any
) -> list[int]:
    call: dict[str, Any] = {"batch_key": key, "deadline": None, "cancelled": never_cancelled} | kwargs
    (answer,) = await scheduler.run(model, [np.array(values, "i8")], **call)
    return [int(value) for value in answer]


async def held(scheduler: Scheduler, model: Model) -> asyncio.Task[list[int]]:
    """A call that is inside the model, behind its closed gate."""
    model.gate.clear()
    task = asyncio.create_task(run(scheduler, model, 0))
    until = time.monotonic() + 10
    while not model.calls:
        assert time.monotonic() < until
        await asyncio.sleep(0.001)
    return task


async def test_without_batching_every_call_is_a_run_of_its_own() -> None:
    scheduler, model = Scheduler(threads=1, max_queue=10), Model()
    first = await held(scheduler, model)
    rest = [asyncio.create_task(run(scheduler, model, n, n)) for n in (1, 2)]
    await asyncio.sleep(0.01)
    model.gate.set()
    assert await first == [0]
    assert [await task for task in rest] == [[10, 10], [20, 20]]
    assert model.calls == [[0], [1, 1], [2, 2]]
    assert await scheduler.close(5)


async def test_with_batching_waiting_rows_share_a_run_and_get_their_own_answers() -> None:
    scheduler, model = Scheduler(threads=1, max_queue=100, max_batch_rows=8), Model()
    first = await held(scheduler, model)
    rest = [asyncio.create_task(run(scheduler, model, *values)) for values in ((1,), (2, 3), (4, 5, 6))]
    await asyncio.sleep(0.01)
    assert scheduler.queued == 6
    model.gate.set()
    assert await first == [0]
    assert [await task for task in rest] == [[10], [20, 30], [40, 50, 60]]
    assert model.calls == [[0], [1, 2, 3, 4, 5, 6]]
    await scheduler.close(5)


async def test_only_calls_of_the_same_key_and_row_shape_share_and_odd_ones_run_alone() -> None:
    scheduler, model = Scheduler(threads=1, max_queue=100, max_batch_rows=3), Model()
    first = await held(scheduler, model)
    rest = [
        asyncio.create_task(run(scheduler, model, 1)),
        asyncio.create_task(run(scheduler, model, 2, key="other")),
        asyncio.create_task(run(scheduler, model, 3, key=None)),
        asyncio.create_task(run(scheduler, model)),  # no rows
        asyncio.create_task(run(scheduler, model, 4, 5, 6, 7, 8)),  # more than a batch
        asyncio.create_task(run(scheduler, model, 9)),
    ]
    await asyncio.sleep(0.01)
    model.gate.set()
    await first
    assert [await task for task in rest] == [[10], [20], [30], [], [40, 50, 60, 70, 80], [90]]
    assert sorted(model.calls[1:]) == sorted([[1, 9], [2], [3], [], [4, 5, 6, 7, 8]])
    await scheduler.close(5)


async def test_one_bad_call_of_a_batch_fails_alone() -> None:
    scheduler, model = Scheduler(threads=1, max_queue=100, max_batch_rows=8), Model()
    first = await held(scheduler, model)
    rest = [asyncio.create_task(run(scheduler, model, n)) for n in (1, -2, 3)]
    await asyncio.sleep(0.01)
    model.gate.set()
    await first
    answers = await asyncio.gather(*rest, return_exceptions=True)
    assert answers[0] == [10] and answers[2] == [30]
    assert isinstance(answers[1], InvalidArgument)
    await scheduler.close(5)


async def test_outputs_that_do_not_follow_the_rows_are_not_cut_up() -> None:
    scheduler = Scheduler(threads=1, max_queue=100, max_batch_rows=8)
    model = Model()

    def total(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        return [np.sum(model(arrays)[0], keepdims=True)]

    first = await held(scheduler, model)
    call: dict[str, Any] = {"batch_key": "t", "deadline": None, "cancelled": never_cancelled}
    rest = [asyncio.create_task(scheduler.run(total, [np.array([n])], **call)) for n in (1, 2)]
    await asyncio.sleep(0.01)
    model.gate.set()
    await first
    assert [[int(v) for v in (await task)[0]] for task in rest] == [[10], [20]]
    with pytest.raises(FailedPrecondition, match="0th dimension"):
        from services.tf_serving.execution.scheduler import Work, _run_together

        _run_together([Work(total, [np.array([n])], 1, "t", BatchRules(), 8) for n in (1, 2)])
    await scheduler.close(5)


async def test_runs_have_only_allowed_sizes_and_callers_see_their_rows_alone() -> None:
    rules = BatchRules(allowed_rows=(2, 4, 8))
    scheduler, model = Scheduler(threads=1, max_queue=100, max_batch_rows=8, rules=rules), Model()
    first = await held(scheduler, model)
    rest = [asyncio.create_task(run(scheduler, model, *values)) for values in ((1,), (2, 3), (4, 5, 6))]
    await asyncio.sleep(0.01)
    model.gate.set()
    assert await first == [0]
    assert [await task for task in rest] == [[10], [20, 30], [40, 50, 60]]
    assert model.calls == [[0, 0], [1, 2, 3, 4, 5, 6, 4, 4]]
    assert await run(scheduler, model, 7, 8, 9) == [70, 80, 90]
    assert await run(scheduler, model, 7, 8, 9, key=None) == [70, 80, 90]
    assert model.calls[2:] == [[7, 8, 9, 7], [7, 8, 9]]
    assert await scheduler.close(5)


async def test_a_model_may_have_rules_of_its_own() -> None:
    own = BatchRules(allowed_rows=(1, 3), max_request_rows=4, max_rows=3)
    scheduler = Scheduler(threads=1, max_queue=100, max_batch_rows=8, rules=BatchRules(allowed_rows=(8,)))
    model, other = Model(), Model()
    first = await held(scheduler, model)
    mine = [asyncio.create_task(run(scheduler, model, n, key="own", rules=own)) for n in range(1, 6)]
    others = [asyncio.create_task(run(scheduler, other, n)) for n in range(1, 6)]
    await asyncio.sleep(0.01)
    model.gate.set()
    assert await first == [0]
    assert [await task for task in mine] == [[10], [20], [30], [40], [50]]
    assert [await task for task in others] == [[10], [20], [30], [40], [50]]
    assert model.calls == [[0] * 8, [1, 2, 3], [4, 5, 5]]
    assert other.calls == [[1, 2, 3, 4, 5, 5, 5, 5]]
    assert await run(scheduler, model, 6, 7, 8, 9, key="own", rules=own) == [60, 70, 80, 90]
    assert model.calls[3:] == [[6, 7, 8], [9]]
    with pytest.raises(InvalidArgument, match="Task size 5 is larger than maximum input batch size 4"):
        await run(scheduler, model, 1, 2, 3, 4, 5, key="own", rules=own)
    assert await scheduler.close(5)


async def test_without_batching_a_models_rules_are_not_asked() -> None:
    own = BatchRules(allowed_rows=(4,), max_request_rows=4, max_rows=4)
    scheduler, model = Scheduler(threads=1, max_queue=100, in_place=False), Model()
    assert await run(scheduler, model, 1, 2, rules=own) == [10, 20]
    assert await run(scheduler, model, *range(5), rules=own) == [0, 10, 20, 30, 40]
    assert model.calls == [[1, 2], [0, 1, 2, 3, 4]]
    assert await scheduler.close(5)


async def test_a_models_batches_are_no_larger_than_the_servers() -> None:
    own = BatchRules(max_rows=100)
    scheduler, model = Scheduler(threads=1, max_queue=100, max_batch_rows=2), Model()
    first = await held(scheduler, model)
    rest = [asyncio.create_task(run(scheduler, model, n, rules=own)) for n in (1, 2, 3)]
    await asyncio.sleep(0.01)
    model.gate.set()
    await asyncio.gather(first, *rest)
    assert model.calls == [[0], [1, 2], [3]]
    assert await scheduler.close(5)


async def test_a_model_that_does_not_follow_filled_up_rows_says_so() -> None:
    scheduler = Scheduler(threads=1, max_queue=9, max_batch_rows=8, rules=BatchRules(allowed_rows=(4, 8)))

    def total(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        return [np.sum(arrays[0], keepdims=True)]

    with pytest.raises(FailedPrecondition, match="0th dimension does not equal"):
        await scheduler.run(
            total, [np.array([1, 2])], batch_key="t", deadline=None, cancelled=never_cancelled
        )
    assert await scheduler.close(5)


async def test_filling_up_is_the_same_in_place() -> None:
    rules = BatchRules(allowed_rows=(2, 4))
    scheduler, model = (
        Scheduler(threads=1, max_queue=10, max_batch_rows=4, rules=rules, clock=Clock()),
        Model(),
    )
    for number in range(30):
        assert await run(scheduler, model, number) == [number * 10]
        assert model.calls[-1] == [number, number]
    assert "MainThread" in model.threads
    assert await scheduler.close(5)


async def test_calls_of_unequal_length_share_a_run_where_that_is_asked_for() -> None:
    scheduler = Scheduler(threads=1, max_queue=100, max_batch_rows=8, rules=BatchRules(pad_ragged=True))
    seen: list[Any] = []
    model = Model()

    def shout(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        model([np.array([0])])
        seen.append(arrays[0].tolist())
        return [arrays[0].sum(axis=1)]

    first = await held(scheduler, model)
    call: dict[str, Any] = {"batch_key": "t", "deadline": None, "cancelled": never_cancelled}
    given = [np.array([[b"a", b"b"]], object), np.array([[b"c"]], object)]
    rest = [asyncio.create_task(scheduler.run(shout, [array], **call)) for array in given]
    await asyncio.sleep(0.01)
    model.gate.set()
    await first
    assert [(await task)[0].tolist() for task in rest] == [[b"ab"], [b"cc"]]
    assert seen == [[[b"a", b"b"], [b"c", b"c"]]]
    assert await scheduler.close(5)


async def test_large_calls_run_in_parts_up_to_the_limit_of_a_request() -> None:
    rules = BatchRules(max_request_rows=10)
    scheduler, model = Scheduler(threads=1, max_queue=100, max_batch_rows=4, rules=rules), Model()
    assert await run(scheduler, model, *range(10)) == [10 * n for n in range(10)]
    assert sorted(len(call) for call in model.calls) == [2, 4, 4]
    with pytest.raises(InvalidArgument, match="Task size 11 is larger than maximum input batch size 10"):
        await run(scheduler, model, *range(11))
    with pytest.raises(InvalidArgument, match="negative"):
        await run(scheduler, model, *range(-5, 4))
    assert await run(scheduler, model, 3) == [30]
    assert await scheduler.close(5)


async def test_the_expired_and_the_cancelled_never_reach_the_model() -> None:
    scheduler, model = Scheduler(threads=1, max_queue=10), Model()
    first = await held(scheduler, model)
    late = asyncio.create_task(run(scheduler, model, 1, deadline=time.monotonic() + 0.02))
    gone = asyncio.create_task(run(scheduler, model, 2, cancelled=lambda: True))
    await asyncio.sleep(0.05)
    model.gate.set()
    await first
    with pytest.raises(DeadlineExceeded):
        await late
    with pytest.raises(Cancelled):
        await gone
    assert model.calls == [[0]]
    await scheduler.close(5)


async def test_a_full_queue_refuses_at_once() -> None:
    scheduler, model = Scheduler(threads=1, max_queue=1), Model()
    first = await held(scheduler, model)
    waiting = asyncio.create_task(run(scheduler, model, 1))
    await asyncio.sleep(0.01)
    with pytest.raises(ResourceExhausted):
        await run(scheduler, model, 2)
    model.gate.set()
    assert (await first, await waiting) == ([0], [10])
    await scheduler.close(5)


async def test_several_threads_run_several_calls_at_a_time() -> None:
    scheduler, model = Scheduler(threads=2, max_queue=10), Model()
    model.gate.clear()
    both = [asyncio.create_task(run(scheduler, model, n)) for n in (1, 2)]
    until = time.monotonic() + 10
    while len(model.calls) < 2:
        assert time.monotonic() < until
        await asyncio.sleep(0.001)
    model.gate.set()
    assert [await task for task in both] == [[10], [20]]
    assert await scheduler.close(5)
    with pytest.raises(ServingError):
        await run(scheduler, model, 3)


async def test_calls_of_a_tiny_model_run_in_place_once_they_are_known_to_be() -> None:
    threads: list[str] = []

    def tiny(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        threads.append(threading.current_thread().name)
        if (arrays[0] < 0).any():
            raise InvalidArgument("negative")
        return [arrays[0] * 10]

    clock = Clock()
    scheduler = Scheduler(threads=1, max_queue=10, clock=clock)
    call: dict[str, Any] = {"batch_key": None, "deadline": None, "cancelled": never_cancelled}
    for number in range(30):
        (answer,) = await scheduler.run(tiny, [np.array([number])], **call)
        assert answer.tolist() == [number * 10]
    assert set(threads[:24]) == {"tensorflow-0"} and set(threads[24:]) == {"MainThread"}

    with pytest.raises(InvalidArgument):
        await scheduler.run(tiny, [np.array([-1])], **call)
    ran = len(threads)
    with pytest.raises(DeadlineExceeded):
        await scheduler.run(tiny, [np.array([1])], **call | {"deadline": clock.now})
    with pytest.raises(Cancelled):
        await scheduler.run(tiny, [np.array([1])], **call | {"cancelled": lambda: True})
    assert len(threads) == ran
    await scheduler.run(tiny, [np.array([1, 2])], **call)
    assert threads[ran:] == ["tensorflow-0"]  # larger than those that were seen

    await scheduler.close(5)
    with pytest.raises(Unavailable):
        await scheduler.run(tiny, [np.array([1])], **call)


async def test_calls_of_a_slow_model_and_calls_where_it_is_switched_off_stay_on_model_threads() -> None:
    for step, in_place in ((0.01, True), (0.0, False)):
        scheduler, model = Scheduler(threads=1, max_queue=10, clock=Clock(step), in_place=in_place), Model()
        for number in range(40):
            assert await run(scheduler, model, number) == [number * 10]
        assert model.threads == {"tensorflow-0"}
        await scheduler.close(5)


class Clock:
    """Moves on by `step` seconds whenever it is read."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 100.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Sizes:
    """What a scheduler tells of its batches."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.waits: list[float] = []

    def given(self, rows: int, inputs: int) -> None:
        self.told.append(("given", rows, inputs))

    def ran(self, rows: int, total: int, waited_s: Sequence[float]) -> None:
        self.told.append(("ran", rows, total, len(waited_s)))
        self.waits += waited_s


async def test_it_tells_of_rows_given_and_of_batches_as_they_are_filled() -> None:
    sizes, model = Sizes(), Model()
    rules = BatchRules(allowed_rows=(4, 8))
    scheduler = Scheduler(threads=1, max_queue=99, max_batch_rows=8, rules=rules, sizes=sizes, in_place=False)
    first = await held(scheduler, model)
    assert sizes.told == [("given", 1, 1), ("ran", 1, 4, 1)]
    rest = [asyncio.create_task(run(scheduler, model, *values)) for values in ((1,), (2, 3), (4, 5, 6))]
    alone = asyncio.create_task(run(scheduler, model, 7, key=None))
    await asyncio.sleep(0.01)
    model.gate.set()
    await asyncio.gather(first, alone, *rest)
    assert sizes.told[2:] == [("given", 1, 1), ("given", 2, 1), ("given", 3, 1), ("ran", 6, 8, 3)]
    assert all(0 <= wait < 10 for wait in sizes.waits) and max(sizes.waits) > 0.005
    await scheduler.close(5)


async def test_it_tells_of_quick_calls_that_wait_for_nothing() -> None:
    sizes, model = Sizes(), Model()
    scheduler = Scheduler(threads=1, max_queue=99, max_batch_rows=8, sizes=sizes)
    for number in range(200):
        await run(scheduler, model, number, number)
    assert sizes.told == [("given", 2, 1), ("ran", 2, 2, 1)] * 200
    assert 0.0 in sizes.waits
    await scheduler.close(5)
