from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from services.torch_worker.config import ConfigError
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.engine import Engine
from services.torch_worker.execution.guess import declared, guesses
from services.torch_worker.execution.loads import synthetic_load
from services.torch_worker.execution.recorded import Recorded
from services.torch_worker.execution.threads import Requests
from services.torch_worker.execution.warmup import Warmth, WarmUp, on_own_thread, warm_up
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.model.model_config import TensorSpec

CPU = torch.device("cpu")


class Conv(nn.Module):
    """Takes pictures of 28 x 28 only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=2)
        self.out = nn.Linear(2 * 13 * 13, 4)
        self.calls: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.out(self.conv(x).flatten(1))
        self.calls.append(tuple(x.shape))
        return answer


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.linear(a + b)
        return answer


class FakeTime:
    """A load whose calls take a made-up time, on a clock that only they move."""

    shared = True

    def __init__(self, seconds: Callable[[int, int], float], rows: int = 1) -> None:
        self.now = 0.0
        self.threads = 1
        self.requests = Requests(rows, 100)
        self.calls: list[tuple[int, int]] = []
        self._seconds = seconds

    def clock(self) -> float:
        return self.now

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def run(self, count: int, instance: int) -> None:
        self.calls.append((count, instance))
        self.now += self._seconds(count, self.threads)


def make(model: nn.Module, hooks: Hooks | None = None, copies: int = 1) -> tuple[Engine, list[ModelCaller]]:
    hooks = hooks or Hooks()
    callers = [ModelCaller(model.eval(), CPU, hooks.run_model) for _ in range(copies)]
    return Engine(callers, hooks, folder=Path(__file__).parent), callers


def warm(
    model: nn.Module,
    *recorded: Recorded,
    specs: tuple[TensorSpec, ...] = (),
    hooks: Hooks | None = None,
    alone: bool = False,
    copies: int = 1,
    max_rows: int = 4,
) -> Warmth:
    engine, callers = make(model, hooks, copies)
    warming = WarmUp(instances=copies, max_rows=max_rows)
    return warm_up(engine, callers, recorded, specs, warming, cores=1, threads=1, alone=alone)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Linear(7, 2), (1, 7)),
        (nn.Sequential(nn.ReLU(), nn.Linear(5, 2)), (1, 5)),
        (Conv(), (1, 1, 28, 28)),
        (nn.Sequential(nn.Conv1d(4, 2, 3), nn.Flatten(), nn.Linear(2 * 126, 1)), (1, 4, 128)),
        (nn.Conv2d(6, 2, 3, groups=2), (1, 6, 224, 224)),
        (nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(48, 1)), (1, 16)),
        (nn.GRU(5, 2, batch_first=True), (1, 32, 5)),
        (torch.jit.script(nn.Linear(7, 2)), (1, 7)),  # type: ignore[no-untyped-call]
    ],
)
def test_guesses_find_what_the_model_takes(model: nn.Module, shape: tuple[int, ...]) -> None:
    _, callers = make(model)
    load = synthetic_load(callers, (), True)
    assert load is not None
    load.run(3, 0)
    assert load.requests.bytes == int(np.prod(shape)) * 8


def test_no_guess_is_made_where_nothing_is_known() -> None:
    assert list(guesses(Two())) == []
    assert list(guesses(nn.ReLU())) == []
    assert synthetic_load(make(nn.Sequential(nn.Linear(4, 2), nn.Linear(3, 1)))[1], (), True) is None


def test_declared_inputs_are_made_up() -> None:
    specs = (TensorSpec("ids", "INT64", (-1, 8)), TensorSpec("mask", "BOOL", (-1, -1)))
    rows = declared(specs)
    assert {name: (x.dtype.name, x.shape) for name, x in rows.items()} == {
        "ids": ("int64", (1, 8)),
        "mask": ("bool", (1, 16)),
    }
    assert declared((TensorSpec("text", "BYTES", (-1, 1)),)) is None
    two = (TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "FP32", (-1, 3)))
    assert sorted(warm(Two(), specs=two).seconds) == [1, 2, 4]


def test_declared_inputs_that_fail_only_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert warm(nn.Linear(3, 1), specs=(TensorSpec("x", "FP32", (-1, 4)),)).seconds == {}
    assert "does not take made-up rows: RuntimeError" in caplog.text


def test_embeddings_get_numbers_of_their_table() -> None:
    row = next(guesses(nn.Embedding(3, 2)))
    assert row.dtype == np.int64 and row.max() < 3 and row.min() >= 0


def test_made_up_rows_warm_all_sizes_of_all_instances() -> None:
    net = Conv()
    warmth = warm(net, copies=2, max_rows=6)
    assert sorted(warmth.seconds) == [1, 2, 4, 6] and warmth.threads == 1
    sizes = [shape[0] for shape in net.calls[2:]]
    assert sizes == [1, 1, 2, 2, 4, 4, 6, 6] * 2


def test_wire_numbers_are_known_after_the_warm_up(caplog: pytest.LogCaptureFixture) -> None:
    engine, callers = make(nn.Linear(3, 1))
    warm_up(engine, callers, [], (), WarmUp(instances=1, max_rows=2), cores=1, threads=1, alone=False)
    failing = {"count": 0}
    callers[0].model.register_forward_hook(lambda *_: failing.update(count=failing["count"] + 1))
    engine.run([engine.prepare(np.ones((1, 3)), {"tags": {}})])
    assert failing["count"] == 1, "float64 goes in as float32 at once"


def test_recorded_requests_go_through_the_hooks() -> None:
    seen: list[str] = []

    def preprocess(x: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(kwargs["meta"]["tags"]["user"])
        return torch.tensor([[float(len(x)), 0.0, 0.0]])

    def postprocess(x: torch.Tensor, **_: Any) -> list[Any]:
        seen.append("post")
        return list(x.tolist())

    hooks = Hooks(preprocess=preprocess, postprocess=postprocess)
    warmth = warm(
        nn.Linear(3, 1), Recorded("a.pb", "text", {"user": "u"}, 9), hooks=hooks, alone=True, max_rows=2
    )
    assert sorted(warmth.seconds) == [1, 2]
    assert seen.count("post") == 6 and set(seen) == {"u", "post"}


def test_a_recorded_request_settles_whether_calls_are_shared() -> None:
    engine, callers = make(nn.Linear(3, 1))
    warming = WarmUp(instances=1, max_rows=4)
    row = Recorded("a.npy", np.ones((1, 3), np.float32), {}, 140)
    warm_up(engine, callers, [row], (), warming, cores=1, threads=1, alone=False)
    calls: list[int] = []
    callers[0].model.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    engine.run([engine.prepare(np.full((1, 3), n, np.float32), {"tags": {}}) for n in range(3)])
    assert calls == [3], "one shared call, and no check any more"


def test_a_recorded_request_that_fails_fails_the_load() -> None:
    with pytest.raises(ConfigError, match=r"cannot answer wide\.npy: .*mat1 and mat2"):
        warm(nn.Linear(3, 1), Recorded("wide.npy", np.ones((1, 4), np.float32), {}, 140))

    def preprocess(x: Any, **_: Any) -> Any:
        raise KeyError("gone")

    with pytest.raises(ConfigError, match=r"cannot answer a\.pb: preprocess raised KeyError"):
        warm(nn.Linear(3, 1), Recorded("a.pb", "x", {}, 1), hooks=Hooks(preprocess=preprocess))


def test_made_up_rows_that_fail_only_log(caplog: pytest.LogCaptureFixture) -> None:
    class Moody(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 2:
                raise RuntimeError("too many")
            return super().forward(x)

    with caplog.at_level(logging.WARNING):
        assert warm(Moody(3, 1)).threads == 1
    assert "made-up rows failed, RuntimeError: too many" in caplog.text


def test_hooks_that_call_the_model_are_not_guessed_at() -> None:
    net = Conv()
    assert warm(net, alone=True).seconds == {}
    assert net.calls == []


def test_time_is_bounded() -> None:
    load = FakeTime(lambda count, _: float(count))
    warming = WarmUp(instances=2, max_rows=64, sizes=(4, 16, 32, 64), budget_s=30.0, clock=load.clock)
    seconds = warming.run(load, "x")
    assert sorted(seconds) == [1, 4, 16, 32], "long calls only where they were asked for"
    assert load.now < 30 + 32


def test_preferred_sizes_are_warmed_as_well() -> None:
    load = FakeTime(lambda *_: 0.001, rows=2)
    warming = WarmUp(instances=1, max_rows=16, sizes=(6, 12, 100), clock=load.clock)
    assert sorted(warming.run(load, "x")) == [2, 4, 6, 8, 12, 16]


def test_threads_are_chosen_by_what_calls_take() -> None:
    def large(count: int, threads: int) -> float:
        return 0.08 * count / threads

    def small(count: int, threads: int) -> float:
        return 0.0002 + 1e-6 * count / threads

    for seconds, chosen in ((large, 4), (small, 1)):
        load = FakeTime(seconds)
        warming = WarmUp(instances=1, max_rows=64, clock=load.clock)
        assert warming.choose_threads(load, 4, load.set_threads) == chosen
        assert load.now < 30


def test_no_time_no_choice() -> None:
    load = FakeTime(lambda *_: 100.0)
    warming = WarmUp(instances=1, max_rows=64, clock=load.clock)
    assert warming.choose_threads(load, 4, load.set_threads) is None


def test_work_on_a_thread_of_its_own() -> None:
    assert on_own_thread(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        on_own_thread(lambda: 1 // 0)
