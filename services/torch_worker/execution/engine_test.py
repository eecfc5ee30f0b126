from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from libs.serving.errors import Internal, InvalidArgument
from services.torch_worker.execution.arguments import tag_selector
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.engine import Engine, Job
from services.torch_worker.model.hooks import Hooks

CPU = torch.device("cpu")
HERE = Path(__file__).parent
META: dict[str, Any] = {"tags": {}}


class Net(nn.Module):
    """y = 2x + 1 with float32 weights; counts its calls; fails on rows whose first value is 13."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(3, 3)
        nn.init.eye_(self.scale.weight)
        self.scale.weight.data *= 2
        nn.init.ones_(self.scale.bias)
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor) -> Any:
        self.calls.append(len(x))
        if (x[:, 0] == 13).any():
            raise RuntimeError("unlucky row")
        return self.scale(x)


def engine(model: nn.Module, hooks: Hooks | None = None, batchable: bool | None = None) -> Engine:
    hooks = hooks or Hooks()
    return Engine([ModelCaller(model.eval(), CPU, hooks.run_model)], hooks, folder=HERE, batchable=batchable)


def rows(*first: float, width: int = 3, dtype: Any = np.float64) -> np.ndarray[Any, Any]:
    array = np.zeros((len(first), width), dtype)
    array[:, 0] = first
    array.flags.writeable = False
    return array


def jobs_of(e: Engine, *payloads: Any, meta: dict[str, Any] = META) -> list[Job]:
    return [e.prepare(payload, meta) for payload in payloads]


def first_column(results: list[Any]) -> list[Any]:
    return [r if isinstance(r, Exception) else np.asarray(r)[:, 0].tolist() for r in results]


def test_float64_is_converted_for_a_float32_model() -> None:
    net = Net()
    e = engine(net)
    assert first_column(e.run(jobs_of(e, rows(1.0)))) == [[3.0]]
    net.calls.clear()
    assert first_column(e.run(jobs_of(e, rows(2.0)))) == [[5.0]]
    assert net.calls == [1], "the failing try is made once"


def test_a_model_that_takes_float64_itself_goes_on_getting_it() -> None:
    class Ids(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.dtype is torch.float64
            return x[:, :1].long()

    big = 2.0**53 - 1
    e = engine(Ids())
    for _ in range(2):
        assert e.run(jobs_of(e, rows(big)))[0].tolist() == [[int(big)]]


def test_a_double_model_and_integer_input_are_left_alone() -> None:
    e = engine(Net().double())
    assert e.run(jobs_of(e, rows(0.1)))[0][0, 0] == 2 * 0.1 + 1
    seen: list[torch.dtype] = []
    probe = nn.Linear(3, 3)

    def note(_: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        seen.append(args[0].dtype)
        return (args[0].float(),)

    probe.register_forward_pre_hook(note)
    e = engine(probe)
    e.run(jobs_of(e, rows(1, dtype=np.int64)))
    assert seen == [torch.int64]


def test_requests_share_a_call_and_get_their_own_rows() -> None:
    net = Net()
    e = engine(net)
    e.run(jobs_of(e, rows(0.0)))
    net.calls.clear()
    jobs = jobs_of(e, rows(1.0), rows(2.0, 3.0), rows(4.0))
    assert len({e.key(job) for job in jobs}) == 1
    assert first_column(e.run(jobs)) == [[3.0], [5.0, 7.0], [9.0]]
    assert net.calls == [4, 1, 2, 1], "the first batch is checked against single calls"
    net.calls.clear()
    assert first_column(e.run(jobs)) == [[3.0], [5.0, 7.0], [9.0]]
    assert net.calls == [4]


def test_the_check_of_a_large_first_batch_costs_a_few_calls() -> None:
    net = Net()
    e = engine(net)
    e.run(jobs_of(e, rows(0.0)))
    net.calls.clear()
    assert first_column(e.run(jobs_of(e, *(rows(float(n)) for n in range(10))))) == [
        [2.0 * n + 1] for n in range(10)
    ]
    assert net.calls == [4, 1, 1, 1, 1, 6]


def test_keys_keep_apart_what_cannot_share() -> None:
    e = engine(Net())
    keys = [
        e.key(job)
        for job in jobs_of(e, rows(1), rows(1, 2), rows(1, width=4), rows(1, dtype=np.float32), np.zeros(3))
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_the_guilty_request_of_a_batch_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    e = engine(Net(), batchable=True)
    good, bad, fine = e.run(jobs_of(e, rows(1.0), rows(13.0), rows(2.0)))
    assert good.tolist() == [[3.0, 1.0, 1.0]] and fine.tolist() == [[5.0, 1.0, 1.0]]
    assert isinstance(bad, Internal)
    assert bad.message.startswith("the model raised RuntimeError: unlucky row (engine_test.py line ")
    assert e.shares_calls


def test_a_failure_in_the_first_batch_leaves_the_question_open() -> None:
    net = Net()
    e = engine(net)
    results = e.run(jobs_of(e, rows(1.0), rows(13.0)))
    assert isinstance(results[1], Internal) and first_column(results[:1]) == [[3.0]]
    e.run(jobs_of(e, rows(1.0), rows(2.0)))
    net.calls.clear()
    e.run(jobs_of(e, rows(1.0), rows(2.0)))
    assert net.calls == [2]


def test_a_form_that_the_model_never_answered_is_the_callers_mistake() -> None:
    e = engine(Net())
    (first,) = e.run(jobs_of(e, rows(1.0, width=4)))
    assert isinstance(first, Internal), "nothing is known yet"
    e.run(jobs_of(e, rows(1.0)))
    (wrong,) = e.run(jobs_of(e, rows(1.0, width=4)))
    assert isinstance(wrong, InvalidArgument)
    assert wrong.message.startswith(
        "the model does not take float64 of shape (n, 4); it has answered float64 of shape (n, 3); the model raised"
    )
    (unlucky,) = e.run(jobs_of(e, rows(13.0)))
    assert isinstance(unlucky, Internal), "this form was answered before"


class Mixer(nn.Module):
    """Every row's answer depends on the other rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(dim=0, keepdim=True) + x[:1]


class Summary(nn.Module):
    """One answer for the whole batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=0)


class Scalar(nn.Module):
    def forward(self, x: torch.Tensor) -> float:
        return float(x.sum())


@pytest.mark.parametrize("model", [Mixer(), Summary(), Scalar()])
def test_models_that_mix_rows_are_found_out(model: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    e = engine(model)
    payloads = [rows(1.0), rows(2.0), rows(4.0)]
    expected = [e.run(jobs_of(e, p))[0] for p in payloads]
    jobs = jobs_of(e, *payloads)
    for _ in range(2):
        for result, single in zip(e.run(jobs), expected, strict=True):
            np.testing.assert_array_equal(result, single)
    assert not e.shares_calls
    assert len({e.key(job) for job in jobs}) == 3
    assert "will not share model calls" in caplog.text


class Centred(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


@pytest.mark.parametrize("payload", [rows(1.0), rows(0.0), rows(3, dtype=np.int64), np.zeros((2, 3))])
def test_equal_requests_do_not_hide_that_rows_mix(payload: Any) -> None:
    e = engine(nn.Sequential(Float(), Centred()))
    alone = e.run(jobs_of(e, payload))[0]
    for result in e.run(jobs_of(e, payload, payload)):
        np.testing.assert_array_equal(result, alone)
    assert not e.shares_calls


class Float(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


def test_equal_requests_to_a_model_that_does_not_mix_rows_share_calls_at_once() -> None:
    net = Net()
    e = engine(net)
    assert first_column(e.run(jobs_of(e, rows(1.0), rows(1.0)))) == [[3.0], [3.0]]
    net.calls.clear()
    assert first_column(e.run(jobs_of(e, *[rows(1.0)] * 8))) == [[3.0]] * 8
    assert net.calls == [8]


def test_a_changed_copy_that_the_model_refuses_leaves_the_question_open() -> None:
    class Strict(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert bool((x[:, 0] >= 1).all())
            return x - x.mean(0)

    e = engine(Strict())
    for result in e.run(jobs_of(e, rows(1.0), rows(1.0))):
        assert result.tolist() == [[0.0, 0.0, 0.0]]
    assert e.shares_calls, "not known yet"
    for result in e.run(jobs_of(e, rows(1.0), rows(2.0))):
        assert result.tolist() == [[0.0, 0.0, 0.0]]
    assert not e.shares_calls


def test_requests_without_rows_prove_nothing() -> None:
    e = engine(Centred())
    e.run(jobs_of(e, rows(), rows()))
    e.run(jobs_of(e, rows(), rows(1.0)))
    assert first_column(e.run(jobs_of(e, rows(1.0), rows(5.0)))) == [[0.0], [0.0]]


def test_batchable_false_never_shares() -> None:
    net = Net()
    e = engine(net, batchable=False)
    jobs = jobs_of(e, rows(1.0), rows(2.0))
    assert len({e.key(job) for job in jobs}) == 2
    e.run(jobs)
    net.calls.clear()
    assert first_column(e.run(jobs)) == [[3.0], [5.0]]
    assert net.calls == [1, 1]


def test_an_output_that_stops_having_rows_is_answered_one_by_one() -> None:
    class Moody(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(dim=0) if (x == 7).any() else x

    e = engine(Moody())
    assert first_column(e.run(jobs_of(e, rows(1.0), rows(2.0)))) == [[1.0], [2.0]]
    results = e.run(jobs_of(e, rows(1.0), rows(7.0)))
    assert results[0].tolist() == [[1.0, 0.0, 0.0]] and results[1].tolist() == [7.0, 0.0, 0.0]
    assert not e.shares_calls


def test_original_style_hooks_share_the_model_call() -> None:
    net = Net()
    seen: list[Any] = []

    def preprocess(x: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(kwargs)
        return torch.tensor([[float(x), 0.0, 0.0]])

    def postprocess(x: torch.Tensor, **kwargs: Any) -> Any:
        assert x.shape == (1, 3)
        return f"{kwargs['meta']['tags']['unit']}{x[0, 0].item():g}"

    e = engine(net, Hooks(preprocess=preprocess, postprocess=postprocess))
    jobs = [e.prepare(str(n), {"tags": {"unit": "€$"[n]}}) for n in range(2)]
    assert jobs[0].kwargs == {"meta": {"tags": {"unit": "€"}}}
    assert e.run(jobs) == ["€1", "$3"]
    net.calls.clear()
    assert e.run(jobs) == ["€1", "$3"]
    assert net.calls == [2]


def test_hooks_get_writable_arrays() -> None:
    def preprocess(x: Any, **kwargs: Any) -> torch.Tensor:
        x += 1
        return torch.from_numpy(x).float()

    payload = rows(1.0)
    e = engine(Net(), Hooks(preprocess=preprocess))
    assert first_column(e.run(jobs_of(e, payload))) == [[5.0]]
    assert payload[0, 0] == 1.0


def test_errors_of_hooks() -> None:
    def refuse(x: Any, **kwargs: Any) -> Any:
        raise ValueError("no")

    def crash(x: Any, **kwargs: Any) -> Any:
        raise KeyError("gone")

    with pytest.raises(InvalidArgument, match=r"preprocess raised ValueError: no \(engine_test\.py line"):
        engine(Net(), Hooks(preprocess=refuse)).prepare(b"x", META)
    with pytest.raises(Internal, match=r"preprocess raised KeyError: 'gone' \(engine_test\.py line"):
        engine(Net(), Hooks(preprocess=crash)).prepare(b"x", META)

    def moody(x: torch.Tensor, **kwargs: Any) -> Any:
        if x[0, 0] == 5:
            raise ValueError("five")
        return x

    e = engine(Net(), Hooks(postprocess=moody), batchable=True)
    first, second = e.run(jobs_of(e, rows(1.0), rows(2.0)))
    assert first.tolist() == [[3.0, 1.0, 1.0]]
    assert isinstance(second, Internal) and second.message.startswith("postprocess raised ValueError: five")


@pytest.mark.parametrize(
    ("payload", "name"),
    [(b"x", "binData"), ("x", "strData"), ({"a": 1}, "jsonData"), (np.array(["a"]), "an array of text")],
)
def test_without_preprocess_only_numbers_are_taken(payload: Any, name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"takes arrays of numbers.*got {name};"):
        engine(Net()).prepare(payload, META)


def test_a_custom_run_model_runs_request_by_request() -> None:
    calls: list[Any] = []

    def run_model(model: nn.Module, x: Any, **kwargs: Any) -> Any:
        calls.append((type(x), len(x)))
        return model(x.float())

    e = engine(Net(), Hooks(run_model=run_model, model_takes_tags=False))
    jobs = jobs_of(e, rows(1.0), rows(2.0))
    assert len({e.key(job) for job in jobs}) == 2
    assert first_column(e.run(jobs)) == [[3.0], [5.0]]
    assert calls == [(torch.Tensor, 1)] * 2
    anything = e.prepare("text", META)
    assert anything.data == "text" and e.key(anything) is anything


def test_a_custom_run_model_shares_calls_when_the_folder_says_so() -> None:
    calls: list[Any] = []

    def run_model(model: nn.Module, x: Any, **kwargs: Any) -> Any:
        calls.append((len(x), kwargs["meta"]["tags"]))
        return model(x.float())

    e = engine(Net(), Hooks(run_model=run_model, model_takes_tags=False), batchable=True)
    jobs = [e.prepare(rows(1.0), {"tags": {"k": k}}) for k in (1, 1, 2)]
    assert e.key(jobs[0]) == e.key(jobs[1]) != e.key(jobs[2])
    assert first_column(e.run(jobs[:2])) == [[3.0], [3.0]]
    assert calls == [(2, {"k": 1})]


class Tagged(Net):
    def forward(self, x: torch.Tensor, bias: float = 0.0, taskId: int = 0) -> torch.Tensor:  # noqa: N803
        return torch.add(self.scale(x), bias + taskId)


def test_more_than_one_tag_becomes_arguments_of_the_model() -> None:
    e = engine(Tagged())
    one = e.prepare(rows(1.0), {"tags": {"taskId": 39}})
    two = e.prepare(rows(1.0), {"tags": {"taskId": 39, "bias": 0.5}})
    assert first_column(e.run([one])) == [[3.0]]
    assert first_column(e.run([two])) == [[42.5]]
    assert e.key(one) != e.key(two)
    again = e.prepare(rows(1.0), {"tags": {"bias": 0.5, "taskId": 39}})
    assert e.key(two) == e.key(again)


def test_tags_that_the_model_has_no_parameter_for_are_left_out_and_do_not_divide_batches() -> None:
    e = engine(Net())
    first = e.prepare(rows(1.0), {"tags": {"taskId": 39, "trace": "a"}})
    second = e.prepare(rows(2.0), {"tags": {"taskId": 39, "trace": "b"}})
    assert e.key(first) == e.key(second)
    assert first_column(e.run([first, second])) == [[3.0], [5.0]]


def test_a_run_model_decides_about_tags_itself() -> None:
    e = engine(Tagged(), Hooks(model_takes_tags=False))
    job = e.prepare(rows(1.0), {"tags": {"taskId": 39, "bias": 0.5}})
    assert first_column(e.run([job])) == [[3.0]]


def test_a_shared_run_model_sees_requests_of_equal_parameters_only() -> None:
    def run_model(model: nn.Module, x: torch.Tensor, **kwargs: Any) -> Any:
        return model(x) * kwargs["meta"]["parameters"]["scale"]

    e = engine(Net(), Hooks(run_model=run_model, model_takes_tags=False), batchable=True)
    jobs = [e.prepare(rows(1.0), {"tags": {}, "parameters": {"scale": scale}}) for scale in (1, 2, 2)]
    assert e.key(jobs[0]) != e.key(jobs[1]) == e.key(jobs[2])


def test_tag_selection_by_signature() -> None:
    class Anything(nn.Module):
        def forward(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return torch.as_tensor(x)

    tags = {"x": 0, "bias": 1, "other": 2}
    assert tag_selector(Anything())(tags) == tags
    assert tag_selector(Tagged())(tags) == {"bias": 1}
    assert json.dumps(tag_selector(Net())(tags)) == "{}"


def test_inputs_that_are_no_tensors_reach_the_model_alone() -> None:
    class Words(nn.Module):
        def forward(self, x: list[str]) -> torch.Tensor:
            return torch.tensor([[len(word) for word in x]])

    e = engine(Words(), Hooks(preprocess=lambda x, **kwargs: x.split()))
    jobs = jobs_of(e, "a bb", "ccc")
    assert len({e.key(job) for job in jobs}) == 2
    assert [r.tolist() for r in e.run(jobs)] == [[[1, 2]], [[3]]]


def test_batched_answers_equal_single_answers_for_random_traffic() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 2), nn.Softmax(dim=1))
    e = engine(net)
    rng = np.random.default_rng(0)
    payloads = [rng.normal(size=(rng.integers(0, 4), 5)) for _ in range(400)]
    singles = [engine(net).run(jobs_of(e, p))[0] for p in payloads]
    at = 0
    while at < len(payloads):
        n = int(rng.integers(1, 20))
        for result, single in zip(
            e.run(jobs_of(e, *payloads[at : at + n])), singles[at : at + n], strict=True
        ):
            np.testing.assert_allclose(result, single, rtol=1e-5, atol=1e-6)
        at += n
    assert e.shares_calls
