from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from services.torch_worker.config import WorkerConfig
from services.torch_worker.execution import building
from services.torch_worker.execution.building import Execution, Instances, execution_of
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.cuda import Recordings
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.model.model_config import ModelConfig

CPU = torch.device("cpu")


def test_the_command_line_wins_over_the_folder() -> None:
    folder = ModelConfig(instances=2, threads=3, autocast="bfloat16", compile="default", cuda_graphs=True)
    asked = execution_of(WorkerConfig("/m"), folder, (), 6)
    assert asked == Execution(2, 3, "bfloat16", "default", (1, 2, 4, 6))
    worker = WorkerConfig("/m", instances=4, threads=0, autocast="float16", cuda_graphs=False)
    assert execution_of(worker, folder, (8,), 64) == Execution(4, None, "float16", "default", ())
    assert execution_of(WorkerConfig("/m", cuda_graphs=True), ModelConfig(), (4, 8), 64).graph_sizes == (4, 8)
    assert execution_of(WorkerConfig("/m", cuda_graphs=True), ModelConfig(), (), 1).graph_sizes == (1,)


def test_instances_answer_alike() -> None:
    net = nn.Linear(3, 2).eval()
    instances = Instances(net, [CPU], Hooks(), Execution(instances=3))
    x = np.ones((1, 3), np.float32)
    answers = [caller.call([x], {}, {}) for caller in instances.callers]
    assert len(answers) == 3 and all(torch.equal(answer, answers[0]) for answer in answers)
    instances.settle()
    instances.warmed()
    assert instances.callers[0].forward is net


def test_autocast_reaches_the_model_and_the_hook() -> None:
    net = nn.Linear(64, 2).eval()
    x = torch.rand(1, 64)

    def run_model(model: nn.Module, x: torch.Tensor, **_: Any) -> Any:
        return model(x)

    for hooks in (Hooks(), Hooks(run_model=run_model)):
        (caller,) = Instances(net, [CPU], hooks, Execution(autocast="bfloat16")).callers
        with torch.inference_mode():
            answer = caller.call([x], {}, {})
            assert answer.dtype is torch.float32
            assert torch.equal(answer, net.bfloat16()(x.bfloat16()).float())
            net.float()


def test_graphs_do_nothing_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        instances = Instances(nn.Linear(3, 2).eval(), [CPU], Hooks(), Execution(graph_sizes=(4,)))
    instances.settle()
    assert "on the CPU it does nothing" in caplog.text
    assert not isinstance(instances.callers[0].forward, Recordings)


def test_cuda_callers_are_built_where_the_device_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the CPU in the place of two devices, and lanes that only remember them."""
    made: list[tuple[str, Any]] = []

    class Lane:
        def __init__(self, device: torch.device) -> None:
            self.device = device

    class Caller(ModelCaller):
        def __init__(self, model: Any, lane: Lane, run_model: Any, **options: Any) -> None:
            made.append((str(lane.device), options))
            super().__init__(model, lane.device, run_model)

    monkeypatch.setattr(building, "CudaLane", Lane)
    monkeypatch.setattr(building, "CudaCaller", Caller)
    monkeypatch.setattr(building, "copies", lambda model, devices, each: [model] * (len(devices) * each))
    monkeypatch.setattr(building, "set_policy", lambda fixed_shapes: made.append(("policy", fixed_shapes)))
    monkeypatch.setattr(building, "memory_text", lambda device: f"none of {device}")
    devices = [torch.device("cuda", 0), torch.device("cuda", 1)]
    instances = Instances(
        nn.Linear(3, 2), devices, Hooks(postprocess=lambda x, **_: x), Execution(2, graph_sizes=(4,))
    )
    options = {"forward": None, "follows_hooks": False, "fetches": False}
    assert made == [
        ("policy", True), ("cuda:0", options), ("cuda:0", options), ("cuda:1", options), ("cuda:1", options),
    ]  # fmt: skip
    instances.settle()
    recordings = [caller.forward for caller in instances.callers]
    assert all(isinstance(found, Recordings) and found.recording for found in recordings)
    instances.warmed()
    assert not any(isinstance(found, Recordings) and found.recording for found in recordings)
