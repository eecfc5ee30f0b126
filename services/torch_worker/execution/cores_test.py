from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.torch_worker.execution.cores import hook_threads, model_threads, usable_cores


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


def groups(tmp_path: Path, membership: str, **files: str) -> tuple[Path, Path]:
    """A tree of control groups: names are paths with / written as __."""
    root = tmp_path / "cgroup"
    for name, text in files.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file = file.with_name(file.name.replace("cpu_max", "cpu.max").replace("cfs_", "cpu.cfs_"))
        file.write_text(text)
    (tmp_path / "self").write_text(membership)
    return root, tmp_path / "self"


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        ("max 100000\n", 16),
        ("400000 100000\n", 4),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("junk", 16),
        ("100000 0\n", 16),
    ],
)
def test_the_containers_quota_counts(tmp_path: Path, cpu_max: str, cores: int) -> None:
    assert usable_cores(*groups(tmp_path, "0::/\n", cpu_max=cpu_max)) == cores


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    tree = groups(
        tmp_path,
        "0::/kubepods/pod7/main\n",
        kubepods__cpu_max="800000 100000\n",
        kubepods__pod7__cpu_max="300000 100000\n",
        kubepods__pod7__main__cpu_max="max 100000\n",
        other__cpu_max="100000 100000\n",
    )
    assert usable_cores(*tree) == 3


def test_a_path_of_the_hosts_falls_back_to_the_mounted_root(tmp_path: Path) -> None:
    assert usable_cores(*groups(tmp_path, "0::/docker/0a1b\n", cpu_max="200000 100000\n")) == 2
    assert usable_cores(*groups(tmp_path, "0::/../..\n", cpu_max="300000 100000\n")) == 3


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_version_1_counts_as_well(tmp_path: Path, folder: str) -> None:
    files = {
        f"{folder}__docker__x__cfs_quota_us": "500000\n",
        f"{folder}__docker__x__cfs_period_us": "100000\n",
        f"{folder}__cfs_quota_us": "-1\n",
        f"{folder}__cfs_period_us": "100000\n",
    }
    assert usable_cores(*groups(tmp_path, f"4:{folder}:/docker/x\n3:cpuset:/\n0::/\n", **files)) == 5


def test_both_versions_at_once(tmp_path: Path) -> None:
    files = {
        "unified__a__cpu_max": "700000 100000\n",
        "cpu__cfs_quota_us": "600000\n",
        "cpu__cfs_period_us": "100000\n",
    }
    assert usable_cores(*groups(tmp_path, "1:cpu:/\n0::/a\n", **files)) == 6


def test_no_cgroup_means_the_affinity_mask(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "absent", tmp_path / "absent") == 16


def test_division_of_cores() -> None:
    assert [model_threads(n) for n in (1, 2, 16)] == [1, 1, 15]
    assert [model_threads(n, 4) for n in (1, 2, 16)] == [1, 1, 3]
    assert [hook_threads(0, n) for n in (1, 2, 16)] == [1, 2, 8]
    assert hook_threads(5, 1) == 5
