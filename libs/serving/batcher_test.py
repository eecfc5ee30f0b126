"""The batching shell: threads, results, errors, shutdown."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from libs.serving.batcher import Batcher, BatchPolicy
from libs.serving.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

WAIT_S = 10.0


class Model:
    """A model whose runs wait for the test's word; it keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def run(self, items: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(items))
        self.entered.release()
        assert self.open.acquire(timeout=WAIT_S)
        return [f"<{item}>" for item in items]

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, True, WAIT_S)


class Observer:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, int]] = []
        self.drops: list[tuple[str, int]] = []

    def ran(self, items: int, rows: int, waited_s: float, run_s: float) -> None:
        assert 0 <= waited_s < WAIT_S
        assert 0 <= run_s < WAIT_S
        self.runs.append((items, rows))

    def dropped(self, reason: str, items: int) -> None:
        self.drops.append((reason, items))


def _batcher(run: Callable[[Sequence[Any]], Sequence[Any]], **options: Any) -> Batcher[Any, Any]:
    policy = BatchPolicy(options.pop("max_batch_size", 4), options.pop("max_queue_rows", 8))
    return Batcher(
        run,
        options.pop("policy", policy),
        size=options.pop("size", lambda item: 1),
        key=options.pop("key", lambda item: None),
        **options,
    )


async def _busy(batcher: Batcher[Any, Any], model: Model) -> asyncio.Task[Any]:
    """Makes the model busy with an item of its own."""
    task = asyncio.create_task(batcher.submit("busy"))
    await model.wait_entered()
    return task


async def test_a_lone_request_runs_at_once_and_alone() -> None:
    observer = Observer()
    threads = set()

    def run(items: Sequence[int]) -> Sequence[int]:
        threads.add(threading.current_thread().name)
        return [item * 2 for item in items]

    batcher = _batcher(run, observer=observer, name="worker")
    for number in range(20):
        assert await batcher.submit(number) == number * 2
    assert observer.runs == [(1, 1)] * 20
    assert threads == {"worker-0"}
    assert await batcher.close(WAIT_S)


async def test_requests_that_meet_a_busy_model_form_batches_in_order() -> None:
    model, observer = Model(), Observer()
    batcher = _batcher(model.run, observer=observer)
    busy = await _busy(batcher, model)
    tasks = [asyncio.create_task(batcher.submit(number)) for number in range(6)]
    await asyncio.sleep(0)
    assert (batcher.queued_rows, batcher.queued_items, batcher.running_rows) == (6, 6, 1)
    for _ in range(3):
        model.open.release()
    assert await busy == "<busy>"
    assert await asyncio.gather(*tasks) == [f"<{number}>" for number in range(6)]
    assert model.batches == [["busy"], [0, 1, 2, 3], [4, 5]]
    assert observer.runs == [(1, 1), (4, 4), (2, 2)]
    assert await batcher.close(WAIT_S)
    assert batcher.running_rows == 0


async def test_keys_and_sizes_are_the_callers() -> None:
    model = Model()
    batcher = _batcher(model.run, size=len, key=lambda item: item[0])
    busy = await _busy(batcher, model)
    tasks = [asyncio.create_task(batcher.submit(item)) for item in ("aa", "b", "aa", "a")]
    await asyncio.sleep(0)
    for _ in range(4):
        model.open.release()
    await asyncio.gather(busy, *tasks)
    assert model.batches == [["busy"], ["aa", "aa"], ["b"], ["a"]]
    with pytest.raises(InvalidArgument, match="5 rows"):
        await batcher.submit("aaaaa")
    await batcher.close(WAIT_S)


async def test_a_full_queue_refuses_at_once() -> None:
    model, observer = Model(), Observer()
    batcher = _batcher(model.run, observer=observer)
    busy = await _busy(batcher, model)
    tasks = [asyncio.create_task(batcher.submit(number)) for number in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await batcher.submit("too much")
    assert observer.drops == [("rejected", 1)]
    for _ in range(3):
        model.open.release()
    await asyncio.gather(busy, *tasks)
    await batcher.close(WAIT_S)
    assert "too much" not in [item for batch in model.batches for item in batch]


async def test_the_expired_the_cancelled_and_the_withdrawn_never_run() -> None:
    model, observer = Model(), Observer()
    batcher = _batcher(model.run, observer=observer)
    busy = await _busy(batcher, model)
    gone = False
    expired = asyncio.create_task(batcher.submit("expired", deadline=time.monotonic() + 0.05))
    left = asyncio.create_task(batcher.submit("left", cancelled=lambda: gone))
    withdrawn = asyncio.create_task(batcher.submit("withdrawn"))
    stays = asyncio.create_task(batcher.submit("stays"))
    await asyncio.sleep(0.1)
    gone = True
    withdrawn.cancel()
    await asyncio.sleep(0)
    assert batcher.queued_rows == 3
    for _ in range(2):
        model.open.release()
    assert await busy == "<busy>"
    assert await stays == "<stays>"
    with pytest.raises(DeadlineExceeded):
        await expired
    with pytest.raises(Cancelled):
        await left
    with pytest.raises(asyncio.CancelledError):
        await withdrawn
    assert model.batches == [["busy"], ["stays"]]
    assert sorted(observer.drops) == [("cancelled", 1), ("expired", 1), ("withdrawn", 1)]
    await batcher.close(WAIT_S)


async def test_a_caller_may_leave_during_its_run() -> None:
    model = Model()
    batcher = _batcher(model.run)
    task = await _busy(batcher, model)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    model.open.release()
    model.open.release()
    assert await batcher.submit("next") == "<next>"
    await batcher.close(WAIT_S)


async def test_errors_of_a_run(caplog: pytest.LogCaptureFixture) -> None:
    def run(items: Sequence[str]) -> Sequence[Any]:
        if items[0] == "ours":
            raise NotFound("no such signature")
        if items[0] == "defect":
            raise KeyError("a secret")
        if items[0] == "exit":
            raise SystemExit(3)
        if items[0] == "short":
            return []
        return [
            ValueError("a secret") if item == "bad" else InvalidArgument("odd") if item == "odd" else item
            for item in items
        ]

    batcher = _batcher(run)
    with pytest.raises(NotFound, match="no such signature"):
        await batcher.submit("ours")
    for item in ("defect", "exit", "short", "bad"):
        with caplog.at_level(logging.ERROR), pytest.raises(Internal, match=r"internal error \(id ") as caught:
            await batcher.submit(item)
        assert "secret" not in str(caught.value)
        assert caught.value.message.partition("(id ")[2][:8] in caplog.text
    with pytest.raises(InvalidArgument, match="odd"):
        await batcher.submit("odd")
    assert await batcher.submit("good") == "good"
    await batcher.close(WAIT_S)


async def test_an_error_in_an_items_place_is_that_items_alone() -> None:
    model = Model()

    def run(items: Sequence[Any]) -> Sequence[Any]:
        results = list(model.run(items))
        return [
            NotFound("this one") if item == 2 else result for item, result in zip(items, results, strict=True)
        ]

    batcher = _batcher(run)
    busy = await _busy(batcher, model)
    tasks = [asyncio.create_task(batcher.submit(number)) for number in range(4)]
    await asyncio.sleep(0)
    model.open.release()
    model.open.release()
    await busy
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:2] == ["<0>", "<1>"]
    assert isinstance(results[2], NotFound)
    assert results[3] == "<3>"
    await batcher.close(WAIT_S)


async def test_several_threads_run_at_a_time() -> None:
    model = Model()
    batcher = _batcher(model.run, threads=3, max_batch_size=1)
    tasks = [asyncio.create_task(batcher.submit(number)) for number in range(3)]
    for _ in range(3):
        await model.wait_entered()
    assert batcher.running_rows == 3
    for _ in range(3):
        model.open.release()
    assert await asyncio.gather(*tasks) == ["<0>", "<1>", "<2>"]
    assert await batcher.close(WAIT_S)


async def test_each_of_several_runs_has_a_thread_of_its_own() -> None:
    together = threading.Barrier(3, timeout=WAIT_S)

    def instance(name: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        def run(items: Sequence[Any]) -> Sequence[Any]:
            together.wait()
            return [f"{name} in {threading.current_thread().name}" for _ in items]

        return run

    batcher: Batcher[Any, Any] = Batcher(
        [instance("a"), instance("b"), instance("c")],
        BatchPolicy(1, 8),
        size=lambda item: 1,
        key=lambda item: None,
    )
    answers = await asyncio.gather(*[batcher.submit(number) for number in range(3)])
    assert sorted(answers) == ["a in model-0", "b in model-1", "c in model-2"]
    assert await batcher.close(WAIT_S)
    for runs, threads in (([], 1), ([instance("a")], 2)):
        with pytest.raises(ValueError, match="one thread each"):
            Batcher(runs, BatchPolicy(1, 8), size=lambda item: 1, key=lambda item: None, threads=threads)


async def test_each_thread_is_initialised_before_its_first_run() -> None:
    local = threading.local()

    def init() -> None:
        local.ready = True

    batcher = _batcher(lambda items: [local.ready for _ in items], thread_init=init, threads=2)
    assert await asyncio.gather(*[batcher.submit(number) for number in range(8)]) == [True] * 8
    await batcher.close(WAIT_S)

    def fail() -> None:
        raise Unavailable("no device")

    batcher = _batcher(lambda items: items, thread_init=fail)
    with pytest.raises(Unavailable, match="no device"):
        await batcher.submit(1)
    await batcher.close(WAIT_S)


async def test_a_delay_gathers_company() -> None:
    batches: list[int] = []

    def run(items: Sequence[int]) -> Sequence[int]:
        batches.append(len(items))
        return items

    batcher = _batcher(run, policy=BatchPolicy(4, 8, max_delay_ms=2000))
    begin = time.monotonic()
    await batcher.submit(0)
    assert time.monotonic() - begin < 1, "a lone request waits for nobody"
    batches.clear()
    tasks = [asyncio.create_task(batcher.submit(number)) for number in range(4)]
    await asyncio.gather(*tasks)
    assert sum(batches) == 4
    assert time.monotonic() - begin < 1.9, "a full batch does not wait for its delay"
    await batcher.close(WAIT_S)


async def test_priorities_run_first_and_take_the_place_of_lower_ones() -> None:
    model, observer = Model(), Observer()
    batcher = _batcher(model.run, observer=observer, max_batch_size=1, max_queue_rows=3)
    busy = await _busy(batcher, model)
    low = [asyncio.create_task(batcher.submit(f"low {n}", priority=1)) for n in range(3)]
    await asyncio.sleep(0)
    high = [asyncio.create_task(batcher.submit(f"high {n}")) for n in range(2)]
    await asyncio.sleep(0)
    for task in low[1:]:
        with pytest.raises(ResourceExhausted, match="higher priority"):
            await task
    assert observer.drops == [("shed", 1), ("shed", 1)]
    for _ in range(4):
        model.open.release()
    assert await asyncio.gather(busy, low[0], *high) == ["<busy>", "<low 0>", "<high 0>", "<high 1>"]
    assert model.batches == [["busy"], ["high 0"], ["high 1"], ["low 0"]]
    await batcher.close(WAIT_S)


@pytest.mark.parametrize("threads", [1, 2])
async def test_callers_who_return_together_run_together(threads: int) -> None:
    batches: list[int] = []

    def run(items: Sequence[int]) -> Sequence[int]:
        batches.append(len(items))
        time.sleep(0.05)
        return items

    batcher = _batcher(run, policy=BatchPolicy(16, 64), threads=threads)

    async def caller(number: int) -> None:
        for _ in range(12):
            assert await batcher.submit(number) == number
            await asyncio.sleep(0.0005 * number)

    await asyncio.gather(*[caller(number) for number in range(6)])
    assert sum(batches) == 72
    # Unheld, one thread would run the first of them, then the other five: 3 on average. Two parties of callers that
    # take turns use two threads as well.
    assert sum(batches) / len(batches) > (3.5 if threads == 1 else 1.5), batches
    await batcher.close(WAIT_S)


async def test_a_deadline_that_the_queue_would_miss_is_refused_at_once() -> None:
    def run(items: Sequence[int]) -> Sequence[int]:
        time.sleep(0.1)
        return items

    observer = Observer()
    batcher = _batcher(run, observer=observer, max_batch_size=1, max_queue_rows=100)
    assert await batcher.submit(0) == 0
    waiting = [asyncio.create_task(batcher.submit(number)) for number in range(20)]
    await asyncio.sleep(0.01)
    begin = time.monotonic()
    with pytest.raises(ResourceExhausted, match="too long"):
        await batcher.submit(1, deadline=begin + 1.0)
    assert time.monotonic() - begin < 0.5
    assert await batcher.submit(1, deadline=begin + 1.0, priority=-1) == 1
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await batcher.close(WAIT_S)


async def test_closing_lets_the_queued_run() -> None:
    model = Model()
    batcher = _batcher(model.run)
    busy = await _busy(batcher, model)
    queued = asyncio.create_task(batcher.submit("queued"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close(WAIT_S))
    await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        await batcher.submit("new")
    assert not closing.done()
    model.open.release()
    model.open.release()
    assert (await busy, await queued) == ("<busy>", "<queued>")
    assert await closing
    assert await batcher.close(0), "closing twice is closing once"


async def test_closing_does_not_wait_beyond_its_deadline() -> None:
    model, observer = Model(), Observer()
    batcher = _batcher(model.run, observer=observer)
    busy = await _busy(batcher, model)
    queued = asyncio.create_task(batcher.submit("queued"))
    await asyncio.sleep(0)
    assert not await batcher.close(0.05)
    with pytest.raises(Unavailable):
        await queued
    assert observer.drops == [("closed", 1)]
    model.open.release()
    assert await busy == "<busy>"
    assert await batcher.close(WAIT_S)
    assert model.batches == [["busy"]]


async def test_closing_unused() -> None:
    batcher = _batcher(lambda items: items)
    assert await batcher.close(0)
    with pytest.raises(Unavailable):
        await batcher.submit(1)


async def test_results_that_come_after_the_loops_end_harm_nobody() -> None:
    model = Model()

    async def begin() -> Batcher[Any, Any]:
        batcher = _batcher(model.run)
        task = await _busy(batcher, model)
        task.cancel()
        return batcher

    batcher = await asyncio.to_thread(asyncio.run, begin())
    model.open.release()
    thread = batcher._threads[0]
    await asyncio.sleep(0.05)
    assert thread.is_alive()
    with pytest.raises(RuntimeError, match="event loop of its first submit"):
        await batcher.submit("from elsewhere")


@pytest.mark.parametrize("threads", [1, 3])
async def test_under_load_every_item_has_one_outcome(threads: int) -> None:
    """A storm of callers, some of whom leave: what is answered is right, and nothing runs twice."""
    seen: list[int] = []
    lock = threading.Lock()

    def run(items: Sequence[int]) -> Sequence[int]:
        with lock:
            seen.extend(items)
        assert len(items) <= 4
        time.sleep(0.0002)
        return [-item for item in items]

    batcher = _batcher(run, threads=threads, max_queue_rows=32)
    counts = {"ok": 0, "full": 0, "left": 0}

    async def caller(first: int) -> None:
        for number in range(first, first + 30):
            try:
                if number % 7 == 0:
                    await asyncio.wait_for(batcher.submit(number), 0.0005)
                else:
                    assert await batcher.submit(number) == -number
                counts["ok"] += 1
            except ResourceExhausted:
                counts["full"] += 1
                await asyncio.sleep(0.001)
            except TimeoutError:
                counts["left"] += 1

    await asyncio.gather(*[caller(1000 * number) for number in range(60)])
    assert await batcher.close(WAIT_S)
    assert sum(counts.values()) == 1800
    assert len(seen) == len(set(seen))
    assert counts["ok"] <= len(seen) <= counts["ok"] + counts["left"]
    assert (batcher.queued_rows, batcher.queued_items, batcher.running_rows) == (0, 0, 0)
