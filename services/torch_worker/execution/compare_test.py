from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from services.torch_worker.execution.compare import perturbed, same


def test_same_allows_rounding_only() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    assert same(x, x * (1 + 1e-6))
    assert not same(x, x * 1.01)
    assert same(x.half(), x.half() * 1.002)
    assert not same(x, x.double()) and not same(x, x[:3])
    assert same([x, {"a": x}], [x, {"a": x.clone()}])
    assert not same([x], [x, x]) and not same({"a": x}, {"b": x})
    nan = torch.tensor([float("nan"), float("inf")])
    assert same(nan, nan.clone())
    labels = torch.arange(20)
    assert same(labels, labels.clone()) and not same(labels, labels.flip(0))
    assert same(torch.zeros(0, 2), torch.zeros(0, 2))
    assert same("a", "a") and not same("a", 1)


@dataclass
class Point:
    x: torch.Tensor
    name: str


def test_same_looks_into_arrays_numbers_and_dataclasses() -> None:
    a = np.array([1.0, 2.0])
    assert same(a, a + 1e-9) and not same(a, a + 1) and not same(a, a[:1])
    assert same(np.array(["a"]), np.array(["a"])) and not same(np.array(["a"]), np.array(["b"]))
    assert same(0.1 + 0.2, 0.3) and not same(0.3, 0.4)
    z = torch.tensor([1 + 2j])
    assert same(z, z * (1 + 1e-7)) and not same(z, z.conj())
    x = torch.ones(2)
    assert same(Point(x, "a"), Point(x + 1e-7, "a"))
    assert not same(Point(x, "a"), Point(x, "b")) and not same(Point(x, "a"), Point(x * 2, "a"))


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((2, 3)),
        np.arange(6).reshape(2, 3),
        torch.tensor([True, False]),
        torch.ones(1, 2, dtype=torch.complex64),
        {"a": torch.ones(1, 2), "b": np.zeros((1, 1), np.int64)},
    ],
)
def test_changed_copies_keep_their_form(data: Any) -> None:
    changed = perturbed(data)
    for one, other in zip(
        data.values() if isinstance(data, dict) else [data],
        changed.values() if isinstance(data, dict) else [changed],
        strict=True,
    ):
        assert type(one) is type(other) and one.dtype == other.dtype and one.shape == other.shape
        assert (one != other).any()


def test_changed_ids_stay_within_their_table() -> None:
    ids = torch.randint(0, 100, (4, 8), generator=torch.Generator().manual_seed(1))
    changed = perturbed(ids)
    assert int(changed.min()) >= 0 and int(changed.max()) <= int(ids.max())
