from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.gateway.supervisor_folder import PREFIX, remove_stale, run_folder


def test_the_folder_is_ours_alone_and_gone_afterwards(tmp_path: Path) -> None:
    with run_folder([tmp_path]) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.parent == tmp_path
    assert not folder.exists()


def test_a_long_or_missing_place_is_passed_over(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    with run_folder([long, tmp_path / "missing", tmp_path]) as folder:
        assert folder.parent == tmp_path
    with pytest.raises(OSError, match="set TMPDIR to a short"), run_folder([long, tmp_path / "missing"]):
        pass


def test_folders_of_the_living_stay_and_those_of_the_dead_go(tmp_path: Path) -> None:
    dead = tmp_path / f"{PREFIX}1-dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "control.sock").touch()
    foreign = tmp_path / f"{PREFIX}2-no-lock"
    foreign.mkdir()
    linked = tmp_path / f"{PREFIX}3-link"
    os.symlink(foreign, linked)
    with run_folder([tmp_path]) as living:
        remove_stale(tmp_path)
        assert living.exists()
        assert foreign.exists()
        assert linked.is_symlink()
        assert not dead.exists()
