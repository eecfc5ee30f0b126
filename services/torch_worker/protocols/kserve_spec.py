"""One input or output of a model, as KServe's protocol describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Spec(Protocol):
    """A declared tensor; -1 in its shape, which counts the dimension of the rows, is any size."""

    @property
    def name(self) -> str: ...

    @property
    def datatype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that was seen, or is guessed."""

    name: str
    datatype: str
    shape: tuple[int, ...]
