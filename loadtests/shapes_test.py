from __future__ import annotations

import pytest

from loadtests.plots import nice
from loadtests.shapes import SHAPES, kept_seconds, ramp, spike, steady


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_shape_ends_and_never_exceeds_its_users(name: str) -> None:
    users = SHAPES[name](40, 10.0)
    seen = [users(at / 10) for at in range(110)]
    assert seen[100:] == [None] * 10
    assert all(now is not None and 1 <= now <= 40 for now in seen[:100])


def test_shapes() -> None:
    assert [steady(5, 10)(at) for at in (0, 9.9, 10)] == [5, 5, None]
    assert [ramp(20, 10)(at) for at in (0, 5, 9.9)] == [2, 12, 20]
    assert [spike(20, 10)(at) for at in (0, 3.9, 4, 5.9, 6)] == [4, 4, 20, 20, 4]


def test_whole_seconds_are_kept() -> None:
    assert kept_seconds(5, 0) == range(5)
    assert kept_seconds(5.9, 1.5) == range(2, 5)
    with pytest.raises(ValueError, match="at least 3 s"):
        kept_seconds(2, 2)


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1), (0.3, 0.5), (1, 1), (1.01, 2), (2.2, 2.5), (7, 10), (101, 200)]
)
def test_axes_end_at_round_numbers(highest: float, top: float) -> None:
    assert nice(highest) == pytest.approx(top)
