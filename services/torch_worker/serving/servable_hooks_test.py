"""Hooks under concurrency, through a whole servable: whose answer is whose, who fails, and on which thread
things run."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from libs.serving.batcher import BatchPolicy
from libs.serving.call import Call
from libs.serving.errors import Internal, InvalidArgument, ServingError
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.engine import Engine
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.serving.servable import Request, Servable


@asynccontextmanager
async def served(model: nn.Module, hooks: Hooks, **options: Any) -> AsyncIterator[Servable]:
    callers = [ModelCaller(model.eval(), torch.device("cpu"), hooks.run_model)]
    engine = Engine(callers, hooks, folder=Path(__file__).parent, **options)
    servable = Servable(engine, BatchPolicy(16, 4096), hook_threads=2)
    try:
        yield servable
    finally:
        await servable.close(5.0)


async def ask(servable: Servable, payload: Any) -> Any:
    """The answer of the hooks itself, kept beside the message that a protocol would make of it."""
    kept: list[Any] = []

    def encode(result: Any, names: Any) -> bytes:
        kept.append(result)
        return b"message"

    request = Request(payload, {"tags": {}}, encode)
    assert await servable.predict(Call("test", {}), request) == b"message"
    return kept[0]


async def flood(servable: Servable, payloads: list[Any], in_flight: int) -> list[Any]:
    """Answers, or errors in their place, with so many requests in flight."""
    results: list[Any] = [None] * len(payloads)
    waiting = iter(enumerate(payloads))

    async def caller() -> None:
        for index, payload in waiting:
            try:
                results[index] = await ask(servable, payload)
            except ServingError as error:
                results[index] = error

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return results


class Picky(nn.Module):
    """Twice its input; fails on rows whose second value is 3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x[:, 1] == 3).any()):
            raise RuntimeError("the model's turn to fail")
        return x * 2


def make_one(x: Any) -> torch.Tensor:
    if x[1] == 1:
        raise ValueError("preprocess refuses")
    if x[1] == 2:
        raise KeyError("preprocess breaks")
    return torch.tensor([x], dtype=torch.float64)


def end_one(x: torch.Tensor) -> list[float]:
    if x[0, 1] == 8:
        raise ValueError("postprocess breaks")
    return list(x[0].tolist())


SINGLE = Hooks(preprocess=lambda x, **kwargs: make_one(x), postprocess=lambda x, **kwargs: end_one(x))
BATCHED = Hooks(
    preprocess_batch=lambda xs, **kwargs: [make_one(x) for x in xs],
    postprocess_batch=lambda xs, **kwargs: [end_one(x) for x in xs],
)
ERRORS = {1: InvalidArgument, 2: Internal, 3: Internal, 4: Internal}


@pytest.mark.parametrize("hooks", [SINGLE, BATCHED], ids=["single", "batched"])
@pytest.mark.parametrize("slow", [False, True], ids=["inline", "after"])
async def test_one_percent_of_failures_costs_nobody_else_an_answer(
    hooks: Hooks, slow: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rng = np.random.default_rng(5)
    # The second value says what goes wrong, in 1 % of the requests: 1 and 2 in preprocess, 3 in the model, 4 after it.
    faults = np.where(rng.random(4000) < 0.01, rng.integers(1, 5, 4000), 0)
    payloads = [[float(n), float(fault)] for n, fault in enumerate(faults)]
    async with served(Picky(), hooks) as servable:
        servable._pace.slow = slow
        servable._pace.observe = lambda *_: None  # type: ignore[method-assign]
        results = await flood(servable, payloads, 32)
    outcome: Counter[str] = Counter()
    for payload, result in zip(payloads, results, strict=True):
        error = ERRORS.get(int(payload[1]))
        if result is None:
            outcome["lost"] += 1
        elif error is not None:
            outcome["failed" if type(result) is error else "wrong"] += 1
        else:
            outcome["right" if result == [payload[0] * 2, 0.0] else "wrong"] += 1
    failures = int((faults > 0).sum())
    assert failures > 20
    assert outcome == {"right": 4000 - failures, "failed": failures}
    tracebacks = sum(record.exc_info is not None for record in caplog.records)
    assert tracebacks <= 12, "one a place, however many fail there"


async def test_slow_hooks_after_the_model_do_not_hold_it_up() -> None:
    threads: dict[str, set[str]] = {"model": set(), "after": set()}

    class Where(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            threads["model"].add(threading.current_thread().name)
            return x

    together = threading.Barrier(2, timeout=20)
    meeting = threading.Event()

    def postprocess(x: torch.Tensor, **kwargs: Any) -> float:
        threads["after"].add(threading.current_thread().name)
        time.sleep(0.005)
        if meeting.is_set():
            together.wait()
        return float(x)

    async with served(Where(), Hooks(postprocess=postprocess), batchable=True) as servable:
        assert await ask(servable, np.ones((1, 1))) == 1.0
        assert threads["after"] == {"model-0"}, "nothing is known of the first"
        for value in await flood(servable, [np.ones((1, 1))] * 10, 2):
            assert value == 1.0
        assert {"after-0", "after-1"} & threads["after"] and threads["model"] == {"model-0"}
        meeting.set()
        assert await flood(servable, [np.full((1, 1), n) for n in (5, 6)], 2) == [5.0, 6.0]


async def test_the_models_thread_helps_while_more_than_a_batch_waits_for_hooks() -> None:
    names: Counter[str] = Counter()
    gate = threading.Event()

    def postprocess(x: torch.Tensor, **kwargs: Any) -> float:
        name = threading.current_thread().name
        names[name] += 1
        if name.startswith("after"):
            assert gate.wait(20)
        return float(x)

    async with served(nn.Identity(), Hooks(postprocess=postprocess), batchable=True) as servable:
        servable._pace.slow = True
        servable._pace.observe = lambda *_: None  # type: ignore[method-assign]
        after = servable._after
        assert after is not None
        stuck: list[asyncio.Task[Any]] = []
        end = time.monotonic() + 20
        while after.queued_items <= 16:
            assert time.monotonic() < end
            stuck.append(asyncio.create_task(ask(servable, np.full((1, 1), len(stuck)))))
            await asyncio.sleep(0.002)
        assert await asyncio.wait_for(ask(servable, np.full((1, 1), -1.0)), 20) == -1.0
        assert names["model-0"] >= 1
        gate.set()
        assert [await task for task in stuck] == [float(n) for n in range(len(stuck))]


async def test_batched_preprocess_takes_what_has_queued_up() -> None:
    sizes: list[int] = []
    gate = threading.Event()

    def preprocess_batch(xs: list[Any], **kwargs: Any) -> list[torch.Tensor]:
        sizes.append(len(xs))
        assert gate.wait(20)
        return [torch.tensor([[float(x)]]) for x in xs]

    async with served(nn.Identity(), Hooks(preprocess_batch=preprocess_batch)) as servable:
        tasks = []
        end = time.monotonic() + 20
        for n in range(2):
            tasks.append(asyncio.create_task(ask(servable, str(n))))
            while len(sizes) <= n:
                assert time.monotonic() < end
                await asyncio.sleep(0.005)
        tasks += [asyncio.create_task(ask(servable, str(n))) for n in range(2, 12)]
        hooks = servable._hooks
        assert hooks is not None
        while hooks.queued_items < 10:
            assert time.monotonic() < end
            await asyncio.sleep(0.005)
        gate.set()
        answers = [(await task).item() for task in tasks]
    assert answers == [float(n) for n in range(12)]
    assert sizes == [1, 1, 10]
