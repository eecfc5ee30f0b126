"""The parts of CUDA's support that can be tried without a device: recordings are faked, memory is the CPU's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from services.torch_worker.execution.cuda import CudaCaller, CudaLane, Recordings, set_policy


class FakeRecording:
    """Repeats a call on the memory that it was recorded with, into the same output, as a graph does."""

    def __init__(self, call: Callable[[torch.Tensor], Any], memory: torch.Tensor) -> None:
        self._call, self._memory = call, memory
        self.output = call(memory)
        self.runs = 0

    def run(self) -> None:
        self.runs += 1
        self.output.copy_(self._call(self._memory))


class Model:
    def __init__(self) -> None:
        self.eager: list[int] = []

    def __call__(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self.eager.append(len(x))
        return x * 2 + 1


def recorded(sizes: list[int]) -> tuple[Model, Recordings]:
    model = Model()
    recordings = Recordings(model, sizes, FakeRecording)
    for size in sizes:
        recordings(torch.zeros(size, 3))
    recordings.recording = False
    return model, recordings


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8])
def test_calls_are_filled_up_to_the_next_recorded_size(rows: int) -> None:
    model, recordings = recorded([2, 4, 8])
    model.eager.clear()
    x = torch.arange(rows * 3.0).reshape(rows, 3)
    torch.testing.assert_close(recordings(x), x * 2 + 1)
    assert model.eager == [2 if rows <= 2 else 4 if rows <= 4 else 8]


def test_answers_outlive_the_next_call() -> None:
    _, recordings = recorded([2])
    first = recordings(torch.zeros(2, 3))
    recordings(torch.ones(2, 3))
    assert first.tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    "x", [torch.zeros(9, 3), torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.float64), torch.zeros(0, 3)]
)
def test_other_calls_run_as_they_are(x: torch.Tensor) -> None:
    model, recordings = recorded([2, 8])
    model.eager.clear()
    torch.testing.assert_close(recordings(x), x * 2 + 1)
    assert model.eager == [len(x)]


def test_arguments_by_name_run_as_they_are() -> None:
    model, recordings = recorded([2])
    model.eager.clear()
    recordings(torch.zeros(2, 3), top=1)
    assert model.eager == [2]


def test_nothing_is_recorded_after_the_warm_up() -> None:
    model, recordings = recorded([2])
    recordings(torch.zeros(2, 5))
    model.eager.clear()
    recordings(torch.zeros(1, 5))
    assert model.eager == [1]


def test_a_call_that_cannot_be_recorded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(call: Callable[[torch.Tensor], Any], memory: torch.Tensor) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    model = Model()
    recordings = Recordings(model, [2], refuse)
    with caplog.at_level(logging.WARNING):
        assert recordings(torch.zeros(2, 3)).tolist() == [[1.0] * 3] * 2
        recordings(torch.zeros(2, 3))
    assert caplog.text.count("not recorded as CUDA graphs, RuntimeError") == 1
    assert model.eager == [2, 2]


def test_an_output_without_rows_is_not_recorded() -> None:
    class Total(Model):
        def __call__(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            self.eager.append(len(x))
            return x.sum().reshape(1)

    model = Total()
    recordings = Recordings(model, [4], FakeRecording)
    assert recordings(torch.ones(4, 3)).tolist() == [12.0]
    assert recordings(torch.ones(2, 3)).tolist() == [6.0]


class Event:
    waits: ClassVar[list[str]] = []

    def record(self, stream: object) -> None:
        self.waits.append("recorded")

    def synchronize(self) -> None:
        self.waits.append("awaited")


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> CudaLane:
    """A lane whose device is the CPU; pinned memory is what any is."""
    empty = torch.empty

    def unpinned(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        made: torch.Tensor = empty(*args, **kwargs)
        return made

    Event.waits = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", unpinned)
    return CudaLane(torch.device("cpu"))


def test_staging_joins_and_converts(lane: CudaLane) -> None:
    parts = [np.full((n, 2), n, np.float64) for n in (1, 2)]
    staged = lane.stage(parts, np.dtype(np.float32))
    assert staged.dtype is torch.float32 and staged.tolist() == [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
    same = lane.stage([np.arange(3)])
    assert same.dtype is torch.int64 and same.tolist() == [0, 1, 2]
    assert lane.stage([np.array(2.5)]).item() == 2.5
    with pytest.raises(TypeError):
        lane.stage([np.array([["a"]])])


def test_staging_leaves_the_request_alone(lane: CudaLane) -> None:
    source = np.frombuffer(np.arange(4.0).tobytes()).reshape(2, 2)
    lane.stage([source]).zero_()
    assert source.tolist() == [[0.0, 1.0], [2.0, 3.0]]


class OnDevice(torch.Tensor):
    """A tensor that says it is the device's."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")


def test_fetching_keeps_the_structure_and_waits_once(lane: CudaLane) -> None:
    here = torch.zeros(1)
    there = [torch.full((2,), float(n)).as_subclass(OnDevice) for n in range(2)]
    fetched = lane.fetch({"a": [there[0], "x"], "b": here, "c": there[1]})
    assert fetched["a"][0].tolist() == [0.0, 0.0] and fetched["a"][1] == "x"
    assert fetched["b"] is here and fetched["c"] is not there[1]
    assert fetched["c"].tolist() == [1.0, 1.0]
    assert Event.waits == ["recorded", "awaited"]


def test_outputs_for_hooks_of_other_threads_are_computed_and_kept(
    lane: CudaLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[object] = []

    class Kept(OnDevice):
        def record_stream(self, stream: object) -> None:  # type: ignore[override]
            kept.append(stream)

    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "default")
    output = {"a": torch.ones(1).as_subclass(Kept), "b": [torch.zeros(1), 3]}
    assert lane.hand_over(output) is output
    assert kept == ["default"] and Event.waits == ["recorded", "awaited"]


def test_a_caller_waits_for_what_hooks_put_on_the_device_and_fetches_answers(
    lane: CudaLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noting(name: str) -> Callable[[Any], Any]:
        def note(output: Any) -> Any:
            order.append(name)
            return output

        return note

    monkeypatch.setattr(lane, "follow_hooks", lambda: order.append("follow"))
    monkeypatch.setattr(lane, "fetch", noting("fetch"))
    monkeypatch.setattr(lane, "hand_over", noting("hand over"))
    model = torch.nn.Linear(3, 1).eval()
    model.register_forward_hook(lambda *_: order.append("model"))
    for follows, fetches, expected in (
        (True, True, ["follow", "model", "fetch"]),
        (False, False, ["model", "hand over"]),
    ):
        order.clear()
        caller = CudaCaller(model, lane, None, follows_hooks=follows, fetches=fetches)
        assert caller.call([np.ones((1, 3), np.float32)], {}, {}).shape == (1, 1)
        assert order == expected


def test_answers_are_the_cpus_unless_tf32_is_asked_for() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    kept = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        set_policy(fixed_shapes=False)
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (False, False, False)
        set_policy(fixed_shapes=True, tf32=True)
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (True, True, True)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = kept
