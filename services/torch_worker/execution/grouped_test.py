from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.torch_worker.execution.grouped import WrongResultError, copied, grouped, results_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, None], [1, None]),
        ((1, 2), [1, 2]),
        (np.array([[1, 2], [3, 4]]), [[[1, 2]], [[3, 4]]]),
        (torch.tensor([5, 6]), [[5], [6]]),
    ],
)
def test_results_are_items_or_rows(value: Any, expected: list[Any]) -> None:
    results = results_of(value, 2, "preprocess_batch")
    assert [r.tolist() if hasattr(r, "tolist") else r for r in results] == expected


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ([1], "1 results"),
        (np.zeros((3, 2)), r"ndarray of shape \(3, 2\)"),
        (torch.tensor(1.0), r"Tensor of shape \(\)"),
        (None, "NoneType"),
        ("ab", "str"),
    ],
)
def test_a_wrong_number_of_results_says_what_was_expected(value: Any, got: str) -> None:
    with pytest.raises(
        WrongResultError, match=f"was given 2 requests and returned {got}; it must return a list"
    ):
        results_of(value, 2, "preprocess_batch")


@given(st.integers(1, 70), st.sets(st.integers(0, 69)))
def test_only_the_guilty_fail(n: int, guilty: set[int]) -> None:
    failures: list[int] = []

    def together(items: Sequence[int]) -> list[str]:
        if guilty.intersection(items):
            raise ValueError("guilty")
        return [str(item) for item in items]

    results = grouped(
        list(range(n)),
        together,
        lambda item: "error" if item in guilty else str(item),
        lambda error, items: failures.append(items),
    )
    assert results == ["error" if item in guilty else str(item) for item in range(n)]
    if not guilty.intersection(range(n)):
        assert not failures


def test_one_guilty_of_many_costs_few_calls() -> None:
    calls: list[int] = []

    def together(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        if 37 in items:
            raise ValueError
        return list(items)

    def alone(item: int) -> int:
        calls.append(1)
        return item

    assert grouped(list(range(64)), together, alone, lambda *_: None) == list(range(64))
    assert len(calls) == 13


def test_a_hook_with_a_wrong_number_of_results_is_not_asked_again() -> None:
    calls = 0

    def together(items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        return results_of([1], len(items), "hook")

    assert grouped([1, 2, 3, 4], together, lambda item: item, lambda *_: None) == [1, 2, 3, 4]
    assert calls == 1


def test_copies_share_nothing_that_could_be_changed() -> None:
    value: dict[str, Any] = {
        "a": np.ones(2),
        "b": [torch.ones(2), (np.ones(1),)],
        "c": [1.0, 2.0],
        "d": [{"e": 1}],
        "f": "text",
    }
    twin = copied(value)
    twin["a"] += 1
    twin["b"][0].add_(1)
    twin["b"][1][0][0] = 5
    twin["c"].append(3)
    twin["d"][0]["e"] = 2
    assert value["a"].tolist() == [1, 1] and value["b"][0].tolist() == [1, 1]
    assert value["b"][1][0][0] == 1 and value["c"] == [1.0, 2.0] and value["d"] == [{"e": 1}]
