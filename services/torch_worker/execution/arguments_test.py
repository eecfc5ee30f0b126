from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from libs.serving.errors import InvalidArgument
from services.torch_worker.execution.arguments import Arguments, arguments_of, tag_selector


class Two(nn.Module):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return ids * mask * scale


class Wide(nn.Module):
    def forward(self, x: torch.Tensor, /, *more: torch.Tensor, head: int = 0, **rest: Any) -> torch.Tensor:
        return x


def test_the_parameters_of_python_scripted_and_exported_models() -> None:
    two = Arguments(("ids", "mask", "scale"), 2)
    assert arguments_of(Two()) == two
    assert arguments_of(torch.jit.script(Two())) == two
    ones = torch.ones(2, 2)
    exported = torch.export.export(Two(), (ones, ones.clone())).module()
    assert arguments_of(exported) == Arguments(("ids", "mask"), 2)
    positional, named = arguments_of(exported).bind({"mask": ones * 3, "ids": ones * 2})
    assert exported(*positional, **named).tolist() == [[6, 6], [6, 6]]
    assert arguments_of(Wide()) == Arguments(("x",), 1, ("head",), True, True)


TWO = Arguments(("ids", "mask", "scale"), 2)


@pytest.mark.parametrize(
    ("arguments", "inputs", "bound"),
    [
        (TWO, {"mask": 2, "ids": 1}, ([1, 2], {})),
        (TWO, {"INPUT__0": 1, "INPUT__1": 2}, ([1, 2], {})),
        (TWO, {"ids": 1, "mask": 2, "scale": 3}, ([1, 2, 3], {})),
        (Arguments(("a", "b", "c"), 1), {"c": 3, "a": 1}, ([1], {"c": 3})),
        (Arguments(("a",), 1, ("k",)), {"a": 1, "k": 2}, ([1], {"k": 2})),
        (Arguments(("a",), 1, any_name=True), {"a": 1, "k": 2}, ([], {"a": 1, "k": 2})),
        (Arguments(("features",), 1), {"user": 1, "item": 2}, ([{"user": 1, "item": 2}], {})),
        (Arguments((), 0, any_number=True), {"user": 1, "item": 2}, ([1, 2], {})),
    ],
)
def test_inputs_find_their_parameters(arguments: Arguments, inputs: Any, bound: Any) -> None:
    assert arguments.bind(inputs) == bound


@pytest.mark.parametrize("inputs", [{"ids": 1}, {"a": 1}, {"ids": 1, "musk": 2}, dict.fromkeys("abcd", 1)])
def test_inputs_that_do_not_fit_name_both_sides(inputs: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        TWO.bind(inputs)
    assert (
        f"inputs are {', '.join(inputs)}, the model's are ids, mask, scale (optional)" in caught.value.message
    )


def test_tags_go_to_the_parameters_after_the_input() -> None:
    tags = {"ids": 0, "scale": 2.0, "other": 3}
    assert tag_selector(Two())(tags) == {"scale": 2.0}
    assert tag_selector(torch.jit.script(Two()))(tags) == {"scale": 2.0}
    assert tag_selector(Wide())(tags) == tags
