from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from libs.serving.errors import Internal, InvalidArgument, ResourceExhausted
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.engine import Engine, Job
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.model.model_config import PaddingConfig

CPU = torch.device("cpu")


def engine(model: nn.Module, hooks: Hooks | None = None, **options: Any) -> Engine:
    hooks = hooks or Hooks()
    callers = [ModelCaller(model.eval(), CPU, hooks.run_model)]
    return Engine(callers, hooks, folder=Path(__file__).parent, **options)


def jobs_of(e: Engine, *payloads: Any) -> list[Job]:
    return [e.prepare(payload, {"tags": {}}) for payload in payloads]


def rows(*first: float) -> Any:
    return np.array([[value, 0.0] for value in first], np.float32).reshape(len(first), 2)


class Small(nn.Module):
    """y = 2x, on a device that holds so many rows; counts its calls."""

    def __init__(self, capacity: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.capacity = capacity
        self.error = error
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(x))
        if len(x) > self.capacity:
            raise self.error()
        return x * 2


OUT_OF_MEMORY: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError,
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_halved_and_all_are_answered(error: Callable[[], Exception]) -> None:
    freed: list[int] = []
    model = Small(10, error)
    e = engine(model, batchable=True, free_memory=lambda: freed.append(1))
    results = e.run(jobs_of(e, *(rows(n) for n in range(64))))
    assert [r[0, 0] for r in results] == [2 * n for n in range(64)]
    assert freed and max(model.calls[-7:]) <= 10
    model.calls.clear()
    results = e.run(jobs_of(e, *(rows(n) for n in range(64))))
    assert [r[0, 0] for r in results] == [2 * n for n in range(64)]
    assert model.calls == [8] * 8, "the limit is remembered"


def test_a_request_that_does_not_fit_alone_is_told_so_and_the_rest_is_answered() -> None:
    freed: list[int] = []
    e = engine(Small(4, OUT_OF_MEMORY[0]), batchable=True, free_memory=lambda: freed.append(1))
    good, large, fine = e.run(jobs_of(e, rows(1), rows(*range(6)), rows(2)))
    assert good.tolist() == [[2, 0]] and fine.tolist() == [[4, 0]]
    assert isinstance(large, ResourceExhausted)
    assert large.message.endswith("6 rows of this size do not fit into memory, send fewer at a time")
    (alone,) = e.run(jobs_of(e, rows(*range(6))))
    assert isinstance(alone, ResourceExhausted) and len(freed) >= 3


def test_memory_that_runs_out_in_the_first_batch_leaves_the_question_open() -> None:
    model = Small(3, OUT_OF_MEMORY[0])
    e = engine(model)
    assert [r[0, 0] for r in e.run(jobs_of(e, rows(1), rows(2), rows(3), rows(4)))] == [2, 4, 6, 8]
    assert e.shares_calls
    e.run(jobs_of(e, rows(1), rows(2)))
    model.calls.clear()
    e.run(jobs_of(e, rows(1), rows(2)))
    assert model.calls == [2]


def test_one_guilty_request_of_many_costs_few_calls() -> None:
    calls = []

    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            if bool((x[:, 0] == 13).any()):
                raise RuntimeError("unlucky")
            return x

    e = engine(Picky(), batchable=True)
    results = e.run(jobs_of(e, *(rows(n) for n in range(64))))
    assert isinstance(results[13], Internal) and len(calls) == 13
    assert [r[0, 0] for i, r in enumerate(results) if i != 13] == [n for n in range(64) if n != 13]


class LateMixer(nn.Module):
    """Rows mix in batches of more than 6 only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0) if len(x) > 6 else x


def test_a_model_that_passes_the_first_check_is_found_out_by_a_later_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    e = engine(LateMixer())
    wrong = 0
    for call in range(20):
        payloads = [rows(float(n)) for n in range(1, 5 if call == 0 else 11)]
        results = e.run(jobs_of(e, *payloads))
        wrong += any(not np.array_equal(r, p) for r, p in zip(results, payloads, strict=True))
    assert not e.shares_calls and wrong <= 8
    assert "a batch gave other answers than its requests one by one" in caplog.text


def test_another_form_of_input_is_checked_at_its_first_shared_call() -> None:
    class ByWidth(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0) if x.shape[1] == 3 else x

    e = engine(ByWidth())
    e.run(jobs_of(e, rows(1), rows(2)))
    assert e.shares_calls
    wide = [np.full((1, 3), n, np.float32) for n in (1, 2)]
    for result in e.run(jobs_of(e, *wide)):
        assert result.tolist() == [[0, 0, 0]]
    assert not e.shares_calls


@pytest.mark.parametrize("model", [nn.Identity(), nn.ReLU(inplace=True)])
def test_models_that_write_into_their_input_share_calls_and_answer_right(model: nn.Module) -> None:
    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            doubled: torch.Tensor = model(x).mul_(2)
            return doubled

    e = engine(Doubling(), Hooks(preprocess=lambda x, **kwargs: torch.from_numpy(x)))
    for _ in range(12):
        results = e.run(jobs_of(e, rows(1), rows(2), rows(3)))
        assert [r.tolist() for r in results] == [[[2, 0]], [[4, 0]], [[6, 0]]]
    assert e.shares_calls


def test_randomness_left_on_is_named(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)

    class Careless(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(x + 1)  # its default is training=True

    e = engine(Careless())
    e.run(jobs_of(e, np.ones((1, 200), np.float32), np.zeros((1, 200), np.float32)))
    assert not e.shares_calls and "dropout or another randomness is left on" in caplog.text


def test_what_is_kept_between_calls_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Counting(nn.Module):
        seen = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            return x + self.seen

    e = engine(Counting())
    e.run(jobs_of(e, rows(1), rows(2)))
    assert not e.shares_calls and "keeps something between calls" in caplog.text


class Masked(nn.Module):
    """Mean embedding over ids that are not 0, and the doubled ids: an output with a length and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.calls: list[tuple[int, ...]] = []

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls.append(tuple(ids.shape))
        known = (ids != 0).unsqueeze(2).float()
        mean = (self.table(ids) * known).sum(1) / known.sum(1).clamp(min=1)
        return {"mean": mean, "twice": ids * 2}


def sentences(lengths: list[int], rng: np.random.Generator) -> list[Any]:
    return [rng.integers(1, 50, (1 + i % 2, length)) for i, length in enumerate(lengths)]


def test_sequences_share_calls_once_padded_and_get_their_own_answers() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Masked()
    e = engine(model, padding=PaddingConfig(8))
    alone = engine(model)
    for round_ in range(20):
        payloads = sentences([3, 5, 8, 7, 1], rng)
        jobs = jobs_of(e, *payloads)
        assert len({e.key(job) for job in jobs}) == 1
        model.calls.clear()
        results = e.run(jobs)
        if round_ == 1:
            assert model.calls == [(7, 8)]
        for payload, result in zip(payloads, results, strict=True):
            (single,) = alone.run(jobs_of(alone, payload))
            assert result["twice"].tolist() == single["twice"].tolist() == (payload * 2).tolist()
            np.testing.assert_allclose(result["mean"], single["mean"], rtol=1e-5, atol=1e-6)
    assert len({e.key(job) for job in jobs_of(e, *sentences([8, 9], rng))}) == 2


def test_sequences_of_one_length_are_not_padded() -> None:
    model = Masked()
    e = engine(model, padding=PaddingConfig(8), batchable=True)
    e.run(jobs_of(e, *sentences([3, 3, 3], np.random.default_rng(0))))
    assert model.calls == [(4, 3)]


def test_a_model_that_padding_changes_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float().mean(1, keepdim=True)

    e = engine(Mean(), padding=PaddingConfig(8))
    payloads = sentences([3, 5, 8], np.random.default_rng(0))
    jobs = jobs_of(e, *payloads)
    for _ in range(3):
        for payload, result in zip(payloads, e.run(jobs), strict=True):
            np.testing.assert_allclose(result, payload.mean(1, keepdims=True), rtol=1e-6)
    assert "will not be padded" in caplog.text
    assert e.shares_calls, "requests of one length may still"
    assert len({e.key(job) for job in jobs}) == 3


def test_padding_is_checked_again_now_and_then() -> None:
    class Longest(nn.Module):
        """Padding shows only where all values are negative."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.amax(1, keepdim=True)

    e = engine(Longest(), padding=PaddingConfig(8), batchable=True)
    short, long = np.array([[1.0, 2.0]]), np.array([[1.0, 2.0, 3.0]])
    e.run(jobs_of(e, short, long))
    for _ in range(10):
        results = e.run(jobs_of(e, -short, -long))
    assert [r.tolist() for r in results] == [[[-1.0]], [[-1.0]]]
    assert len({e.key(job) for job in jobs_of(e, short, long)}) == 2


def test_a_mask_tells_the_model_what_is_real() -> None:
    class Attending(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)

    e = engine(Attending(), padding=PaddingConfig(4, 99.0, "mask"), batchable=True)
    payloads = [np.array([[1.0, 3.0]]), np.array([[2.0], [4.0]]), np.array([[6.0, 7.0, 8.0]])]
    for _ in range(2):
        results = e.run(jobs_of(e, *payloads))
        assert [r.tolist() for r in results] == [[[2.0]], [[2.0], [4.0]], [[7.0]]]
    assert e.run(jobs_of(e, payloads[0]))[0].tolist() == [[2.0]]
    assert len({e.key(job) for job in jobs_of(e, *payloads)}) == 1


class Dot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, user: torch.Tensor, item: torch.Tensor, bias: float = 0.0) -> torch.Tensor:
        self.calls.append(len(user))
        return (user * item).sum(1, keepdim=True) + bias


def test_named_inputs_are_joined_by_name_and_find_their_parameters() -> None:
    model = Dot()
    e = engine(model)
    payloads = [{"item": rows(n, n + 1), "user": rows(2, 2)} for n in range(5)]
    jobs = jobs_of(e, *payloads)
    assert len({e.key(job) for job in jobs}) == 1 and jobs[0].rows == 2
    for _ in range(2):
        model.calls.clear()
        results = e.run(jobs)
        assert [r.tolist() for r in results] == [[[2 * n], [2 * n + 2]] for n in range(5)]
    assert model.calls == [10]


def test_named_inputs_that_do_not_fit_say_both_names() -> None:
    e = engine(Dot())
    (result,) = e.run(jobs_of(e, {"user": rows(1), "thing": rows(2)}))
    assert isinstance(result, InvalidArgument)
    assert "inputs are user, thing, the model's are user, item, bias (optional)" in result.message
    (result,) = e.run(jobs_of(e, {"INPUT__0": rows(1), "INPUT__1": rows(2)}))
    assert result.tolist() == [[2.0]]


def test_named_inputs_of_different_numbers_of_rows_run_alone() -> None:
    e = engine(Dot())
    jobs = jobs_of(e, {"user": rows(1), "item": rows(1, 2)}, {"user": rows(3), "item": rows(1, 2)})
    assert e.key(jobs[0]) is jobs[0]
    assert [r.tolist() for r in e.run(jobs)] == [[[1.0], [2.0]], [[3.0], [6.0]]]


def test_one_named_input_is_the_input() -> None:
    e = engine(nn.Identity())
    assert e.run(jobs_of(e, {"whatever": rows(3)}))[0].tolist() == [[3.0, 0.0]]


def test_a_dict_of_preprocess_is_the_models_one_input() -> None:
    class Takes(nn.Module):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return batch["a"] + batch["b"]

    def preprocess(x: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        return {"a": torch.from_numpy(x), "b": torch.from_numpy(x)}

    e = engine(Takes(), Hooks(preprocess=preprocess))
    for _ in range(2):
        assert [r[0, 0] for r in e.run(jobs_of(e, rows(1), rows(2)))] == [2, 4]


def test_a_failure_of_a_model_of_many_forms_is_not_put_down_to_the_form() -> None:
    class Lengths(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1] < 70
            return x

    e = engine(Lengths())
    for length in range(1, 70):
        e.run(jobs_of(e, np.zeros((1, length))))
    (result,) = e.run(jobs_of(e, np.zeros((1, 99))))
    assert isinstance(result, Internal)


def test_instances_share_what_is_learnt_and_answer_side_by_side(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
    callers = [ModelCaller(model, CPU, None) for _ in range(3)]
    e = Engine(callers, Hooks(), folder=Path(__file__).parent)
    together = threading.Barrier(3, timeout=20)

    def work(instance: int) -> int:
        rng = np.random.default_rng(instance)
        together.wait()
        wrong = 0
        for _ in range(200):
            payloads = [
                rng.normal(size=(rng.integers(1, 4), 2)).astype(np.float32) for _ in range(rng.integers(1, 9))
            ]
            with torch.inference_mode():
                expected = [model(torch.from_numpy(p)).numpy() for p in payloads]
            answers = e.run(jobs_of(e, *payloads), instance)
            wrong += sum(
                not np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(answers, expected, strict=True)
            )
        return wrong

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [0, 0, 0]
    assert e.shares_calls and e.instances == 3
