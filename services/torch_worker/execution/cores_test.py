from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.torch_worker.execution.cores import hook_threads, model_threads, usable_cores


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        ("max 100000\n", 16),
        ("400000 100000\n", 4),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("junk", 16),
    ],
)
def test_the_containers_quota_counts(tmp_path: Path, cpu_max: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    assert usable_cores(tmp_path / "cpu.max") == cores


@pytest.mark.usefixtures("sixteen")
def test_no_cgroup_means_the_affinity_mask(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "absent") == 16


def test_division_of_cores() -> None:
    assert [model_threads(0, n) for n in (1, 2, 16)] == [1, 1, 15]
    assert model_threads(3, 1) == 3
    assert [hook_threads(0, n) for n in (1, 2, 16)] == [1, 2, 8]
    assert hook_threads(5, 1) == 5
