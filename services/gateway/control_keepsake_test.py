from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gateway.control_keepsake import Keepsake, State


@pytest.fixture
def keepsake() -> Iterator[Keepsake]:
    found = Keepsake()
    yield found
    found.close()


def state(version: int) -> State:
    return State({Path("/a"): bytes(range(256))}, {"h": ("10.0.0.1", "::1")}, {"p": "grpc"}, version, 3)


def test_the_last_state_is_what_comes_back(keepsake: Keepsake) -> None:
    assert keepsake.load() is None
    for version in range(1, 6):
        keepsake.save(state(version))
        assert keepsake.load() == state(version)


@pytest.mark.parametrize("left", [0, 5, 30])
def test_a_write_that_was_cut_short_leaves_the_state_before_it(keepsake: Keepsake, left: int) -> None:
    keepsake.save(state(1))
    keepsake.save(state(2))
    os.ftruncate(keepsake._memory[0], left)  # the second one lies there
    assert keepsake.load() == state(1)
    keepsake.save(state(3))
    assert keepsake.load() == state(3)


def test_a_spoilt_state_is_not_believed(keepsake: Keepsake) -> None:
    keepsake.save(state(1))
    keepsake.save(state(2))
    os.pwrite(keepsake._memory[0], b"x", 60)
    assert keepsake.load() == state(1)
