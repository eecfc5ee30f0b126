from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from libs.proto.seldon import DataKind, SeldonRequest, decode_message, encode_message, encode_meta
from libs.serving.batcher import BatchPolicy
from libs.serving.call import Call
from libs.serving.errors import DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.engine import Engine
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.protocols.seldon_grpc import METHODS, SeldonGrpc
from services.torch_worker.serving.repository import Repository
from services.torch_worker.serving.servable import Servable

TENSOR = DataKind.TENSOR


class Gated(nn.Module):
    """Identity that waits for `go`, and keeps the rows of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(x))
        self.entered.set()
        assert self.go.wait(20)
        return x


class Served:
    """A servable behind Seldon's methods."""

    def __init__(self, servable: Servable) -> None:
        self.servable = servable
        repository = Repository("m")
        repository.set(servable)
        self.grpc = SeldonGrpc(repository)

    @property
    def queued_rows(self) -> int:
        return self.servable.queued_rows


@asynccontextmanager
async def served(
    model: nn.Module,
    hooks: Hooks | None = None,
    *,
    policy: BatchPolicy | None = None,
    hook_threads: int = 2,
    inline: bool = False,
) -> AsyncIterator[Served]:
    hooks = hooks or Hooks()
    callers = [ModelCaller(model, torch.device("cpu"), hooks.run_model)]
    engine = Engine(callers, hooks, folder=Path(__file__).parent, batchable=True)
    servable = Servable(engine, policy or BatchPolicy(64, 256), hook_threads=hook_threads, inline=inline)
    try:
        yield Served(servable)
    finally:
        await servable.close(5.0)


async def ask(
    service: Served, kind: DataKind, payload: Any, *, meta: bytes = b"", deadline: float | None = None
) -> SeldonRequest:
    body = encode_message(kind, payload, meta=meta)
    return decode_message(await service.grpc.predict(Call(METHODS[0], {}, deadline), body))


async def until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("kind", [DataKind.TENSOR, DataKind.NDARRAY, DataKind.TFTENSOR])
async def test_arrays_are_answered_in_their_kind(kind: DataKind) -> None:
    async with served(Gated()) as service:
        answer = await ask(service, kind, np.arange(6.0).reshape(2, 3), meta=encode_meta(puid="p"))
    assert answer.kind is kind and answer.puid == "p"
    assert answer.payload.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


async def test_hooks_see_each_kind_as_its_python_value() -> None:
    seen: list[Any] = []

    def preprocess(x: Any, **kwargs: Any) -> Any:
        seen.append((x, kwargs["meta"]))
        return torch.zeros(1, 1)

    hooks = Hooks(preprocess=preprocess, postprocess=lambda x, **kwargs: {"ok": True})
    meta = encode_meta(puid="p", tags={"taskId": 39, "name": "n"})
    async with served(Gated(), hooks) as service:
        for kind, payload in [
            (DataKind.BIN, b"\x00\xff"),
            (DataKind.STR, "字"),
            (DataKind.JSON, {"a": [1, None]}),
        ]:
            answer = await ask(service, kind, payload, meta=meta)
            assert answer.kind is DataKind.JSON and answer.payload == {"ok": True}
            assert seen.pop() == (payload, {"tags": {"taskId": 39, "name": "n"}, "puid": "p"})


async def test_waiting_requests_share_the_next_call() -> None:
    model = Gated()
    model.go.clear()
    async with served(model) as service:
        first = asyncio.create_task(ask(service, TENSOR, np.zeros((1, 2))))
        await until(model.entered.is_set)
        rest = [asyncio.create_task(ask(service, TENSOR, np.full((n, 2), n))) for n in (1, 2, 3)]
        await until(lambda: service.queued_rows == 6)
        model.go.set()
        assert (await first).payload.tolist() == [[0.0, 0.0]]
        for n, task in zip((1, 2, 3), rest, strict=True):
            assert (await task).payload.tolist() == [[n, n]] * n
    assert model.calls == [1, 6]


async def test_what_expires_in_the_queue_never_reaches_the_model() -> None:
    model = Gated()
    model.go.clear()
    async with served(model) as service:
        first = asyncio.create_task(ask(service, TENSOR, np.zeros((1, 2))))
        await until(model.entered.is_set)
        late = asyncio.create_task(ask(service, TENSOR, np.zeros((1, 2)), deadline=time.monotonic() + 0.005))
        await until(lambda: service.queued_rows == 1)
        await asyncio.sleep(0.02)
        model.go.set()
        await first
        with pytest.raises(DeadlineExceeded):
            await late
    assert model.calls == [1]


async def test_a_lone_request_that_cannot_be_answered_in_time_is_not_run() -> None:
    class Slow(Gated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.1)
            return super().forward(x)

    model = Slow()
    async with served(model) as service:
        for _ in range(4):
            await ask(service, TENSOR, np.zeros((1, 2)))
        with pytest.raises(DeadlineExceeded, match="the model takes .* so it was not run"):
            await ask(service, TENSOR, np.zeros((1, 2)), deadline=time.monotonic() + 0.005)
        await ask(service, TENSOR, np.zeros((1, 2)), deadline=time.monotonic() + 20)
    assert model.calls == [1] * 5


async def test_one_slow_first_call_is_forgotten_within_a_second() -> None:
    class Cold(Gated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.calls:
                time.sleep(1.5)
            return super().forward(x)

    model = Cold()
    async with served(model) as service:
        await ask(service, TENSOR, np.zeros((1, 2)))
        await asyncio.sleep(1.1)
        for _ in range(20):
            await ask(service, TENSOR, np.zeros((1, 2)), deadline=time.monotonic() + 0.7)
    assert model.calls == [1] * 21


async def test_once_a_second_a_late_request_runs_all_the_same() -> None:
    class Warming(Gated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(self.calls) < 4:
                time.sleep(0.8)
            return super().forward(x)

    model = Warming()
    async with served(model) as service:
        for _ in range(4):
            await ask(service, TENSOR, np.zeros((1, 2)))
        with pytest.raises(DeadlineExceeded):
            await ask(service, TENSOR, np.zeros((1, 2)), deadline=time.monotonic() + 0.35)
        await asyncio.sleep(1.1)
        for _ in range(20):
            await ask(service, TENSOR, np.zeros((1, 2)), deadline=time.monotonic() + 0.35)
    assert model.calls == [1] * 24


async def test_calls_of_a_quick_model_run_on_the_loops_thread_and_are_shared() -> None:
    threads: list[str] = []
    sizes: list[int] = []

    class Where(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            threads.append(threading.current_thread().name)
            sizes.append(len(x))
            return x

    async with served(Where(), inline=True) as service:
        for n in range(200):
            assert (await ask(service, TENSOR, np.full((1, 2), n))).payload.tolist() == [[n, n]]
        here = threading.current_thread().name
        assert threads[0] == "model-0" and threads.count(here) > 100
        threads.clear()
        sizes.clear()
        answers = await asyncio.gather(*(ask(service, TENSOR, np.full((1, 2), n)) for n in range(50)))
        assert [a.payload[0, 0] for a in answers] == list(range(50))
        assert set(threads) == {here}
        assert sum(sizes) == 50 and len(sizes) < 10


async def test_a_long_call_beside_a_quick_model_holds_nobody_else_up() -> None:
    model = Gated()
    async with served(model, inline=True) as service:
        for _ in range(40):
            await ask(service, TENSOR, np.zeros((1, 3)))
        model.go.clear()
        model.entered.clear()
        wide = asyncio.create_task(
            ask(service, TENSOR, np.zeros((1, 5000)))
        )  # larger than any that was quick
        await until(model.entered.is_set)
        few = [asyncio.create_task(ask(service, TENSOR, np.zeros((1, 3)))) for _ in range(3)]
        # Were the model waited for on the loop's thread, the loop would not come back to let it go on.
        await until(lambda: service.queued_rows == 3)
        model.go.set()
        answers = await asyncio.gather(wide, *few)
    assert [answer.payload.shape for answer in answers] == [(1, 5000), (1, 3), (1, 3), (1, 3)]


async def test_errors_of_a_quick_model_come_through() -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x[0, 0] >= 0
            return x

    async with served(Picky(), inline=True) as service:
        for _ in range(60):
            await ask(service, TENSOR, np.ones((1, 2)))
        with pytest.raises(Internal, match="the model raised AssertionError"):
            await ask(service, TENSOR, -np.ones((1, 2)))
        assert (await ask(service, TENSOR, np.ones((1, 2)))).payload.tolist() == [[1.0, 1.0]]


async def test_a_full_queue_sheds_at_once_and_the_rest_is_answered() -> None:
    model = Gated()
    model.go.clear()
    async with served(model, policy=BatchPolicy(4, 4)) as service:
        first = asyncio.create_task(ask(service, TENSOR, np.zeros((1, 2))))
        await until(model.entered.is_set)
        queued = asyncio.create_task(ask(service, TENSOR, np.zeros((4, 2))))
        await until(lambda: service.queued_rows == 4)
        with pytest.raises(ResourceExhausted):
            await ask(service, TENSOR, np.zeros((1, 2)))
        model.go.set()
        await asyncio.gather(first, queued)
    assert model.calls == [1, 4]


async def test_a_request_of_more_rows_than_a_batch_runs_alone_and_one_of_none_is_answered() -> None:
    model = Gated()
    async with served(model, policy=BatchPolicy(4, 16)) as service:
        assert (await ask(service, TENSOR, np.zeros((9, 2)))).payload.shape == (9, 2)
        assert (await ask(service, TENSOR, np.zeros((0, 2)))).payload.shape == (0, 2)
    assert model.calls == [9, 0]


async def test_preprocess_runs_on_several_threads_at_a_time() -> None:
    together = threading.Barrier(2, timeout=20)

    def preprocess(x: Any, **kwargs: Any) -> Any:
        together.wait()
        return torch.zeros(1, 1)

    async with served(Gated(), Hooks(preprocess=preprocess), hook_threads=2) as service:
        await asyncio.gather(ask(service, DataKind.STR, "a"), ask(service, DataKind.STR, "b"))


async def test_one_bad_request_among_many() -> None:
    def preprocess(x: Any, **kwargs: Any) -> Any:
        return torch.tensor([[float(x)]])

    async with served(Gated(), Hooks(preprocess=preprocess)) as service:
        results = await asyncio.gather(
            *(ask(service, DataKind.STR, text) for text in ["1", "x", "2"]), return_exceptions=True
        )
    assert isinstance(results[1], InvalidArgument) and "could not convert string" in results[1].message
    assert [r.payload.tolist() for r in (results[0], results[2]) if isinstance(r, SeldonRequest)] == [
        [[1.0]],
        [[2.0]],
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xff\xff", "not a SeldonMessage"),
        (b"", "carries no payload"),
    ],
)
async def test_messages_that_cannot_be_served(body: bytes, message: str) -> None:
    async with served(Gated()) as service:
        with pytest.raises(InvalidArgument, match=message):
            await service.grpc.predict(Call(METHODS[0], {}), body)


async def test_both_services_are_offered() -> None:
    async with served(Gated()) as service:
        assert sorted(service.grpc.handlers()) == [
            "/seldon.protos.Model/Predict",
            "/seldon.protos.Seldon/Predict",
        ]
