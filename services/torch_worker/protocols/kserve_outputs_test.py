from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from libs.proto.kserve import InferTensor, RequestedOutput
from libs.serving.errors import Internal, InvalidArgument
from services.torch_worker.protocols.kserve_outputs import output_tensors, pick
from services.torch_worker.protocols.kserve_spec import Tensor

TWO = (Tensor("a", "FP32", (-1, 1)), Tensor("b", "FP32", (-1, 1)))


def found(result: Any, *declared: Tensor) -> dict[str, tuple[str, Any]]:
    return {t.name: (t.datatype, t.array.tolist()) for t in output_tensors(result, declared)}


@pytest.mark.parametrize(
    ("result", "outputs"),
    [
        (np.ones((1, 2), np.float32), {"output_0": ("FP32", [[1, 1]])}),
        (torch.ones(1, dtype=torch.bfloat16), {"output_0": ("FP32", [1])}),
        ([[1, 2]], {"output_0": ("INT64", [[1, 2]])}),
        ((1.5,), {"output_0": ("FP64", [1.5])}),
        (np.float32(2), {"output_0": ("FP32", 2)}),
        (True, {"output_0": ("BOOL", True)}),
        ([["cat", "dog"]], {"output_0": ("BYTES", [["cat", "dog"]])}),
        ("text", {"output_0": ("BYTES", ["text"])}),
        (b"raw", {"output_0": ("BYTES", [b"raw"])}),
        ([torch.zeros(1), torch.zeros(2)], {"output_0": ("FP32", [0]), "output_1": ("FP32", [0, 0])}),
        ({"a": torch.ones(1), "b": "t"}, {"a": ("FP32", [1]), "b": ("BYTES", ["t"])}),
        ({"a": {"b": [1]}, "c": None}, {"a": ("BYTES", ['{"b": [1]}']), "c": ("BYTES", ["null"])}),
    ],
)
def test_results(result: Any, outputs: dict[str, tuple[str, Any]]) -> None:
    assert found(result) == outputs


def test_declared_outputs() -> None:
    assert found(np.ones((1, 1)), Tensor("y", "FP32", (-1, 1))) == {"y": ("FP32", [[1]])}
    assert found([[1]], Tensor("y", "FP16", (-1, 1))) == {"y": ("FP16", [[1]])}
    assert found("text", Tensor("y", "BYTES", (1,))) == {"y": ("BYTES", ["text"])}
    stacked = np.array([[[1.0]], [[2.0]]])  # two heads of one row, as the default postprocess has them
    assert found(stacked, *TWO) == found(list(stacked), *TWO) == {"a": ("FP32", [[1]]), "b": ("FP32", [[2]])}
    assert found({"b": np.ones(1), "more": "x"}, *TWO) == {"b": ("FP32", [1]), "more": ("BYTES", ["x"])}


@pytest.mark.parametrize(
    ("result", "declared", "problem"),
    [
        (None, (), "the result is None"),
        ({}, (), "empty dict"),
        (object(), (), "no tensor can carry"),
        (np.array([1j]), (), "no datatype"),
        ([1.0, 2.0, 3.0], TWO, "declares 2 outputs"),
        ("text", TWO, "declares 2 outputs"),
        (np.array([1.5]), (Tensor("y", "INT32", (-1,)),), "config.toml declares INT32"),
    ],
)
def test_results_that_no_answer_can_carry(result: Any, declared: tuple[Tensor, ...], problem: str) -> None:
    with pytest.raises(Internal, match=problem):
        output_tensors(result, declared)


def test_requested_outputs() -> None:
    tensors = [InferTensor.of(name, np.ones(1)) for name in "abc"]
    assert pick(tensors, ()) is tensors
    assert [t.name for t in pick(tensors, [RequestedOutput("c"), RequestedOutput("a")])] == ["c", "a"]
    with pytest.raises(InvalidArgument, match="unknown output 'd'; this model answers 'a', 'b', 'c'"):
        pick(tensors, [RequestedOutput("d")])
