"""Batched hooks: several requests at a time, and each its own answer or error all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from libs.serving.errors import Internal, InvalidArgument
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.engine import Engine
from services.torch_worker.model.hooks import Hooks


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def engine(hooks: Hooks, batchable: bool | None = None) -> Engine:
    callers = [ModelCaller(Double().eval(), torch.device("cpu"), hooks.run_model)]
    return Engine(callers, hooks, folder=Path(__file__).parent, batchable=batchable)


def metas(count: int) -> list[dict[str, Any]]:
    return [{"tags": {"n": n}} for n in range(count)]


def answers(e: Engine, payloads: list[Any]) -> list[Any]:
    """Through the whole engine, as many requests at a time as there are."""
    jobs = e.prepare_many(list(zip(payloads, metas(len(payloads)), strict=True)))
    good = [job for job in jobs if not isinstance(job, Exception)]
    results = iter(e.run(good) if good else [])
    return [job if isinstance(job, Exception) else next(results) for job in jobs]


def test_batched_hooks_see_all_requests_and_their_metas() -> None:
    seen: list[Any] = []

    def preprocess_batch(xs: list[Any], **kwargs: Any) -> torch.Tensor:
        seen.append((xs, [meta["tags"]["n"] for meta in kwargs["metas"]]))
        for meta in kwargs["metas"]:
            meta["left"] = "behind"
        return torch.tensor([[float(x)] for x in xs])

    def postprocess_batch(xs: list[Any], **kwargs: Any) -> list[str]:
        assert [x.shape for x in xs] == [(1, 1)] * len(xs)
        assert all(meta["left"] == "behind" for meta in kwargs["metas"])
        return [f"{meta['tags']['n']}:{x.item():g}" for x, meta in zip(xs, kwargs["metas"], strict=True)]

    e = engine(Hooks(preprocess_batch=preprocess_batch, postprocess_batch=postprocess_batch))
    assert e.preprocesses and e.prepares_many and e.postprocesses and e.finishes_many and not e.only_model
    assert answers(e, ["1", "2", "3"]) == ["0:2", "1:4", "2:6"]
    assert seen == [(["1", "2", "3"], [0, 1, 2])]
    assert answers(e, ["5"]) == ["0:10"], "a lone request is a batch of one"


def test_a_lone_request_prefers_the_hook_for_one() -> None:
    e = engine(
        Hooks(
            preprocess=lambda x, **kwargs: torch.tensor([[1.0]]),
            preprocess_batch=lambda xs, **kwargs: [torch.tensor([[5.0]]) for _ in xs],
            postprocess=lambda x, **kwargs: f"one {x.item():g}",
            postprocess_batch=lambda xs, **kwargs: [f"many {x.item():g}" for x in xs],
        )
    )
    assert answers(e, ["a"]) == ["one 2"]
    assert answers(e, ["a", "b"]) == ["many 10", "many 10"]


def test_only_the_guilty_requests_of_a_batched_preprocess_fail() -> None:
    def preprocess_batch(xs: list[Any], **kwargs: Any) -> list[Any]:
        for x in xs:
            x /= 2  # in place: what is tried again must not be halved twice
        if any(x[0, 0] == 3 for x in xs):
            raise ValueError("three")
        if any(x[0, 0] == 5 for x in xs):
            raise KeyError("five")
        return [torch.from_numpy(x) for x in xs]

    payloads = [np.full((1, 1), 2.0 * n) for n in range(8)]
    for payload in payloads:
        payload.flags.writeable = False
    results = answers(engine(Hooks(preprocess_batch=preprocess_batch)), payloads)
    assert isinstance(results[3], InvalidArgument) and isinstance(results[5], Internal)
    assert results[3].message.startswith(
        "preprocess_batch raised ValueError: three (engine_hooks_test.py line "
    )
    assert results[5].message.startswith(
        "preprocess_batch raised KeyError: 'five' (engine_hooks_test.py line "
    )
    assert [r.item() for n, r in enumerate(results) if n not in (3, 5)] == [0, 2, 4, 8, 12, 14]


def test_only_the_guilty_requests_of_a_batched_postprocess_fail() -> None:
    def postprocess_batch(xs: list[torch.Tensor], **kwargs: Any) -> list[float]:
        for x in xs:
            x.add_(1)
        if any(x.item() == 7 for x in xs):
            raise ValueError("seven")
        return [x.item() for x in xs]

    e = engine(Hooks(postprocess_batch=postprocess_batch))
    results = answers(e, [np.full((1, 1), float(n)) for n in range(8)])
    assert isinstance(results[3], Internal)
    assert results[3].message.startswith(
        "postprocess_batch raised ValueError: seven (engine_hooks_test.py line "
    )
    assert [r for n, r in enumerate(results) if n != 3] == [1, 3, 5, 9, 11, 13, 15]


@pytest.mark.parametrize("returned", [[], [1], None, "abc", torch.zeros(7, 1)])
def test_a_wrong_number_of_results_costs_each_its_own_call(returned: Any) -> None:
    calls: list[int] = []

    def batch(xs: list[Any], **kwargs: Any) -> Any:
        calls.append(len(xs))
        return returned if len(xs) > 1 else [torch.from_numpy(xs[0])]

    e = engine(Hooks(preprocess_batch=batch))
    assert [r.item() for r in answers(e, [np.full((1, 1), float(n)) for n in range(3)])] == [0, 2, 4]
    assert calls == [3, 1, 1, 1]


def test_a_hook_that_never_returns_the_right_number_says_what_it_should() -> None:
    for hooks, stage in (
        (Hooks(preprocess_batch=lambda xs, **kwargs: []), "preprocess_batch"),
        (Hooks(postprocess_batch=lambda xs, **kwargs: []), "postprocess_batch"),
    ):
        for result in answers(engine(hooks), [np.zeros((1, 1))] * 2):
            assert isinstance(result, Internal)
            assert (
                f"{stage} was given 1 requests and returned 0 results; it must return a list"
                in result.message
            )


def test_requests_that_the_model_failed_do_not_reach_the_hook_after_it() -> None:
    seen: list[int] = []

    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not bool((x == 1).any())
            return x

    def postprocess_batch(xs: list[Any], **kwargs: Any) -> list[float]:
        seen.append(len(xs))
        return [x.item() for x in xs]

    hooks = Hooks(postprocess_batch=postprocess_batch)
    e = Engine([ModelCaller(Picky(), torch.device("cpu"), None)], hooks, folder=Path(__file__).parent)
    results = answers(e, [np.full((1, 1), float(n)) for n in range(3)])
    assert isinstance(results[1], Internal) and [results[0], results[2]] == [0, 2] and seen == [2]
    assert all(isinstance(r, Internal) for r in answers(e, [np.ones((1, 1))] * 2))


def test_a_run_model_for_several_gets_all_metas() -> None:
    seen: list[Any] = []

    def run_model(model: nn.Module, x: torch.Tensor, **kwargs: Any) -> Any:
        seen.append((len(x), len(kwargs["metas"]), kwargs["meta"] is kwargs["metas"][0]))
        return model(x)

    e = engine(Hooks(run_model=run_model, model_takes_tags=False), batchable=True)
    jobs = [e.prepare(np.ones((2, 1)), {"tags": {}}) for _ in range(3)]
    e.run(jobs)
    e.run(jobs[:1])
    assert seen == [(6, 3, True), (2, 1, True)]


def test_named_inputs_reach_the_hooks_as_a_dict_of_their_own() -> None:
    def preprocess(x: Any, **kwargs: Any) -> torch.Tensor:
        x["a"] += 1
        return torch.from_numpy(x["a"] + x["b"])

    a = np.ones((1, 2))
    a.flags.writeable = False
    e = engine(Hooks(preprocess=preprocess))
    job = e.prepare({"a": a, "b": np.zeros((1, 2))}, {"tags": {}})
    assert e.run([job])[0].tolist() == [[4.0, 4.0]] and a.tolist() == [[1.0, 1.0]]

    def run_model(model: nn.Module, x: dict[str, torch.Tensor], **kwargs: Any) -> Any:
        return model(x["a"] + x["b"])

    e = engine(Hooks(run_model=run_model, model_takes_tags=False))
    job = e.prepare({"a": a, "b": np.zeros((1, 2))}, {"tags": {}})
    assert e.run([job])[0].tolist() == [[2.0, 2.0]]
