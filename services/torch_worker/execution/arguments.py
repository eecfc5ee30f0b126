"""What a model's forward can be given: tags as keyword arguments, and inputs by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from libs.serving.errors import InvalidArgument


class NamedInputs(dict[str, Any]):
    """Inputs that the request itself named, which `Arguments.bind` gives to forward's parameters.

    A dict that preprocess returned is no such thing: that is the model's input as it is, as it always was.
    """


@dataclass(frozen=True, slots=True)
class Arguments:
    """The parameters of a model's forward.

    Attributes:
        names: of those that can be given by position, in order.
        required: how many of `names` have no default.
        keyword_only: names of those that can be given by name only.
        any_number: whether forward takes any number of inputs by position (*args).
        any_name: whether it takes any keyword argument (**kwargs).
    """

    names: tuple[str, ...]
    required: int
    keyword_only: tuple[str, ...] = ()
    any_number: bool = False
    any_name: bool = False

    def bind(self, inputs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of a call with these inputs.

        Inputs whose names are parameters go there. Other names are only labels (`INPUT__0`), and the inputs go by the
        order in which they were given; a forward that takes one thing only gets the dict.

        Raises:
            InvalidArgument: the names do not match and there are more or fewer inputs than parameters; says both.
        """
        by_name = set(inputs) <= {*self.names, *self.keyword_only}
        if by_name and set(self.names[: self.required]) <= set(inputs):
            # By position as far as that goes: an exported program takes its inputs in no other way.
            positional = []
            for name in self.names:
                if name not in inputs:
                    break
                positional.append(inputs[name])
            given = self.names[: len(positional)]
            return positional, {name: x for name, x in inputs.items() if name not in given}
        if self.any_name and set(self.names[: self.required]) <= set(inputs):
            return [], dict(inputs)
        if len(inputs) > 1 and len(self.names) == 1 and not self.any_number:
            return [dict(inputs)], {}
        fits = self.required <= len(inputs) and (self.any_number or len(inputs) <= len(self.names))
        # Half of the names right is a mistake, and the order says nothing then.
        if fits and not set(inputs) & {*self.names, *self.keyword_only}:
            return list(inputs.values()), {}
        raise InvalidArgument(
            f"the request's inputs are {', '.join(inputs)}, the model's are {', '.join(self._described())}: name them "
            "as the model does, or give as many as it takes, in its order and by none of its names"
        )

    def _described(self) -> Sequence[str]:
        optional = [f"{name} (optional)" for name in self.names[self.required :]]
        rest = ["*args"] * self.any_number + ["**kwargs"] * self.any_name
        return [*self.names[: self.required], *optional, *self.keyword_only, *rest]


def arguments_of(model: torch.nn.Module) -> Arguments:
    """What model.forward takes; anything at all, if it does not say."""
    schema = getattr(getattr(model, "forward", None), "schema", None)
    if schema is not None:  # TorchScript, which has no Python signature
        parameters = schema.arguments[1:]
        names = tuple(p.name for p in parameters if not p.kwarg_only)
        required = sum(not p.has_default_value() for p in parameters if not p.kwarg_only)
        return Arguments(names, required, tuple(p.name for p in parameters if p.kwarg_only))
    try:
        found = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return Arguments((), 0, any_number=True, any_name=True)
    positional = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return Arguments(
        tuple(p.name for p in positional),
        sum(p.default is p.empty for p in positional),
        tuple(p.name for p in found if p.kind is p.KEYWORD_ONLY),
        any(p.kind is p.VAR_POSITIONAL for p in found),
        any(p.kind is p.VAR_KEYWORD for p in found),
    )


def tag_selector(model: torch.nn.Module) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Which tags of a request become keyword arguments of the model: those that its forward has parameters for.

    All of them where forward takes **kwargs or does not say what it takes. The first parameter is the input itself.
    """
    arguments = arguments_of(model)
    if arguments.any_name:
        return dict
    accepted = frozenset((*arguments.names[1:], *arguments.keyword_only))
    return lambda tags: {name: value for name, value in tags.items() if name in accepted}
