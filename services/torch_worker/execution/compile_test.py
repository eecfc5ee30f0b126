from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from services.torch_worker.config import ConfigError
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.compile import compile_failure, compiled

CPU = torch.device("cpu")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_model_answers_the_same_for_all_numbers_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    plain = list(net)
    caller = ModelCaller(net, CPU, None, forward=compiled(net, "default", CPU))
    for rows in (1, 2, 3, 8):
        x = torch.randn(rows, 3)
        with torch.inference_mode():
            expected = x
            for layer in plain:
                expected = layer(expected)
            torch.testing.assert_close(caller.call([x.numpy()], {}, {}), expected)
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["ok"] <= 2, "one row, and any other number"


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"no no-such-compiler is found here; .*g\+\+"):
        compiled(nn.Linear(3, 2).eval(), "default", CPU)


def test_torchscript_is_refused() -> None:
    scripted: Any = torch.jit.script(nn.Linear(3, 2).eval())  # type: ignore[no-untyped-call]
    with pytest.raises(ConfigError, match="TorchScript"):
        compiled(scripted, "default", CPU)


def test_failures_of_compiling_are_told_from_the_models() -> None:
    assert compile_failure(RuntimeError("of the model")) is None
    inside = torch._dynamo.exc.Unsupported("no such operator")
    outside = RuntimeError("call failed")
    outside.__cause__ = inside
    for error in (inside, outside):
        known = compile_failure(error)
        assert known is not None and "Unsupported: no such operator" in str(known)
