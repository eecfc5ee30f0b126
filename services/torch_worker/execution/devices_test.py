from __future__ import annotations

import pytest
import torch

from services.torch_worker.config import ConfigError
from services.torch_worker.execution.devices import resolve_devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_the_cpu_is_always_there() -> None:
    assert resolve_devices("cpu") == (torch.device("cpu"),)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "indices"), [("cuda", [0]), ("cuda:1", [1]), ("cuda:0,1", [0, 1]), ("cuda:1,0", [1, 0])]
)
def test_devices_of_a_name(name: str, indices: list[int]) -> None:
    assert resolve_devices(name) == tuple(torch.device("cuda", index) for index in indices)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("cuda:2", "only 2 CUDA devices"),
        ("cuda:0,5", "only 2 CUDA devices"),
        ("cuda:1,1", "named twice"),
        ("cuda:", "expected cpu, cuda"),
        ("cuda:0,", "expected cpu, cuda"),
        ("cpu:0", "expected cpu, cuda"),
        ("mps", "expected cpu, cuda"),
        ("", "expected cpu, cuda"),
    ],
)
def test_what_is_wrong_is_said(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        resolve_devices(name)


def test_a_cpu_build_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="CPU build of torch"):
        resolve_devices("cuda")


def test_a_missing_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="nvidia-smi"):
        resolve_devices("cuda")
