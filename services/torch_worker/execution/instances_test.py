from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from services.torch_worker.config import ConfigError
from services.torch_worker.execution.instances import copies

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.tied = self.linear.weight
        self.norm = nn.BatchNorm1d(2)
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        answer: torch.Tensor = self.norm(self.linear(x))
        return answer


def test_one_instance_is_the_model_itself() -> None:
    net = Net().eval()
    assert copies(net, [CPU], 1) == [net]


def test_copies_share_parameters_and_nothing_else() -> None:
    net = Net().eval()
    first, second, third = copies(net, [CPU], 3)
    assert first is net
    for copy in (second, third):
        assert isinstance(copy, Net) and not copy.training
        assert copy.linear.weight is net.linear.weight and copy.tied is net.tied
        assert copy.norm.running_mean is not net.norm.running_mean
    x = torch.randn(4, 3)
    assert torch.equal(second(x), net(x))
    assert second.seen == [4] and third.seen == []


def test_every_device_gets_its_own() -> None:
    net = Net().eval()
    meta = torch.device("meta")
    instances = copies(net, [CPU, meta], 2)
    assert [next(m.parameters()).device for m in instances] == [CPU, CPU, meta, meta]
    on_meta = [m for m in instances[2:] if isinstance(m, Net)]
    assert on_meta[0].linear.weight is on_meta[1].linear.weight


def test_torchscript_and_recurrent_models_are_copied() -> None:
    x = torch.randn(2, 3)
    scripted = torch.jit.trace(nn.Linear(3, 2).eval(), (x,))  # type: ignore[no-untyped-call]
    assert torch.equal(copies(scripted, [CPU], 2)[1](x), scripted(x))
    lstm = nn.LSTM(3, 4).eval()
    assert torch.equal(copies(lstm, [CPU], 2)[1](x)[0], lstm(x)[0])


def test_what_cannot_be_copied_is_refused() -> None:
    net = Net().eval()
    vars(net)["guard"] = threading.Lock()
    assert copies(net, [CPU], 1) == [net]
    with pytest.raises(ConfigError, match="--instances 1"):
        copies(net, [CPU], 2)
