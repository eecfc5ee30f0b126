from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.torch_worker.execution.padding import (
    cut,
    follows,
    join_padded,
    length_of,
    mask_of,
    padded_length,
)
from services.torch_worker.execution.tensors import NotSplittableError, split


@pytest.mark.parametrize(("length", "expected"), [(0, 0), (1, 8), (8, 8), (9, 16)])
def test_lengths_go_up_to_the_next_multiple(length: int, expected: int) -> None:
    assert padded_length(length, 8) == expected


def test_the_length_is_dimension_1_of_all() -> None:
    assert length_of(np.zeros((2, 5, 3))) == 5
    assert length_of({"ids": np.zeros((2, 5)), "mask": torch.zeros(2, 5)}) == 5
    assert length_of({"ids": np.zeros((2, 5)), "features": np.zeros((2, 3))}) is None
    assert length_of({"ids": np.zeros((2, 5)), "user": np.zeros(2)}) is None
    assert length_of(np.zeros(5)) is None and length_of("text") is None and length_of({}) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=5), st.booleans())
def test_what_is_padded_and_cut_is_what_it_was(shapes: list[tuple[int, int]], tensors: bool) -> None:
    rng = np.random.default_rng(1)
    inputs: list[Any] = [rng.integers(1, 9, (rows, length, 2)) for rows, length in shapes]
    if tensors:
        inputs = [torch.from_numpy(x) for x in inputs]
    padded = max(length for _, length in shapes) + 1
    joined = join_padded(inputs, padded, -1)
    assert joined.shape == (sum(rows for rows, _ in shapes), padded, 2)
    for x, (rows, length), part in zip(inputs, shapes, split(joined, [r for r, _ in shapes]), strict=True):
        assert cut(part, length, [True]).tolist() == x.tolist()
        assert bool((part[:, length:] == -1).all()) and len(part) == rows


def test_inputs_with_names_are_padded_name_by_name() -> None:
    one = {"ids": np.array([[1, 2]]), "mask": np.array([[True, True]])}
    two = {"ids": np.array([[3]]), "mask": np.array([[True]])}
    joined = join_padded([one, two], 3, 9, "mask")
    assert joined["ids"].tolist() == [[1, 2, 9], [3, 9, 9]]
    assert joined["mask"].tolist() == [[True, True, False], [True, False, False]]


@dataclass
class Tagged:
    labels: torch.Tensor
    score: torch.Tensor


@pytest.mark.parametrize(
    "shape", [lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}, lambda a, b: Tagged(a, b)]
)
def test_only_outputs_that_follow_the_length_are_cut(shape: Any) -> None:
    # Eight classes and a padded length of eight must not be mixed up.
    alone = shape(torch.zeros(2, 5), torch.zeros(2, 8))
    padded = shape(torch.zeros(2, 8), torch.zeros(2, 8))
    following = follows(alone, 5, padded, 8)
    assert following == (True, False)
    short = cut(padded, 3, following)
    shapes = [tuple(t.shape) for t in (vars(short).values() if isinstance(short, Tagged) else _values(short))]
    assert shapes == [(2, 3), (2, 8)]


def _values(output: Any) -> list[Any]:
    return list(output.values()) if isinstance(output, dict) else list(output)


def test_an_output_of_another_structure_is_noticed() -> None:
    one, two = [torch.zeros(1, 2)], [torch.zeros(1, 2)] * 2
    with pytest.raises(NotSplittableError):
        follows(one, 2, two, 4)
    with pytest.raises(NotSplittableError, match="more tensors"):
        cut(two, 2, [True])
    with pytest.raises(NotSplittableError, match="fewer tensors"):
        cut(one, 2, [True, True])


def test_masks_tell_what_is_real() -> None:
    mask = mask_of([(2, 1), (0, 2), (1, 3)], 3)
    assert mask.tolist() == [[True, False, False], [True, False, False], [True, True, True]]
