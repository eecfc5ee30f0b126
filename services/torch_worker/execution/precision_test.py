from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import nn

from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.precision import autocasted, widened

CPU = torch.device("cpu")
Pair = namedtuple("Pair", ["a", "b"])


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_the_model_computes_in_half_and_answers_in_float(name: str, dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []
    net = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 2)).eval()
    net[0].register_forward_hook(lambda *args: seen.append(args[2].dtype))
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        caller = ModelCaller(net, CPU, None, forward=autocasted(net, CPU, name))
        half = caller.call([x.numpy()], {}, {})
        full = net(x)
    assert seen == [dtype, torch.float32] and half.dtype is torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=5e-2, atol=5e-2)


def test_a_run_model_hook_is_under_it_too() -> None:
    seen: list[torch.dtype] = []

    def run_model(model: nn.Module, x: torch.Tensor, **_: object) -> torch.Tensor:
        answer: torch.Tensor = model(x)
        seen.append(answer.dtype)
        return answer

    net = nn.Linear(4, 2).eval()
    caller = ModelCaller(net, CPU, autocasted(run_model, CPU, "bfloat16"))
    assert caller.call([torch.ones(1, 4)], {}, {}).dtype is torch.float32
    assert seen == [torch.bfloat16]


def test_structures_are_kept() -> None:
    half = torch.ones(2, dtype=torch.bfloat16)
    wide = widened({"a": [half, 3], "b": Pair(half, "x")}, torch.bfloat16)
    assert wide["a"][0].dtype is torch.float32 and wide["a"][1] == 3
    assert isinstance(wide["b"], Pair) and wide["b"].a.dtype is torch.float32
    other = torch.ones(2, dtype=torch.float64)
    assert widened((other,), torch.bfloat16)[0] is other
