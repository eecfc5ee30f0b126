"""Programs of torch.export: loading them, and the number of rows that they were exported for.

An export fixes every size that was not declared dynamic. A program whose first dimension is fixed answers exactly that
many rows; whether it may be fed fewer, filled up, and more, in turns, depends on whether its rows are independent of
each other. That is tried at load.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from services.torch_worker.config import ConfigError

log = logging.getLogger(__name__)

# Operators whose argument of that place says that the program was exported of a model in training mode.
_TRAINING_ARGUMENTS = {"dropout": 2, "batch_norm": 5, "instance_norm": 5, "native_dropout": 2}


@dataclass(frozen=True, slots=True)
class Rows:
    """What a program's inputs say of dimension 0.

    Attributes:
        fixed: the one number of rows that it takes; None where any is taken.
        most: the most that it takes; None for any number.
    """

    fixed: int | None = None
    most: int | None = None


def load_program(file: Path, device: torch.device) -> tuple[torch.nn.Module, Rows]:
    """The module of an exported program, on device, with what it takes.

    Where it takes a fixed number of rows that are independent of each other, the module is a `FixedRows` of it.

    Raises:
        ConfigError: the program cannot be read by this torch, or not be moved to device.
    """
    try:
        program = torch.export.load(file)
        rows = rows_of(program)
        if device.type != "cpu":
            program = move_to_device_pass(program, device)
        model = program.module()
    except Exception as error:  # its deserializer raises what it happens to meet
        raise ConfigError(
            f"{file}: torch.export.load cannot read it: {type(error).__name__}: {error}; this worker has torch "
            f"{torch.__version__}, and programs are read only by the torch that saved them, or one not much newer: "
            "export the model again with this version"
        ) from error
    if _in_training(program):
        log.warning(
            "%s was exported of a model in training mode: dropout and batch statistics are part of it. Call "
            "model.eval() before torch.export.export",
            file,
        )
    if rows.fixed is None:
        return model, rows
    with contextlib.suppress(Exception):  # an example of another device, say: nothing is known then
        if independent(model, rows.fixed, program.example_inputs):
            return fixed_rows(model, rows.fixed), rows
    log.warning(
        "%s was exported for exactly %d rows, and its rows seem to depend on each other: requests of any other number "
        "of rows fail. If they are independent, export it with a dynamic first dimension",
        file,
        rows.fixed,
    )
    return model, rows


def rows_of(program: torch.export.ExportedProgram) -> Rows:
    """What the first dimensions of the program's tensors say; nothing where they do not agree."""
    inputs = set(program.graph_signature.user_inputs)
    firsts: list[Any] = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in inputs and isinstance(value, torch.Tensor):
            firsts.append(value.shape[0] if value.ndim else None)
    if not firsts or any(first is None for first in firsts):
        return Rows()
    fixed = {first for first in firsts if isinstance(first, int)}
    if len(fixed) == 1 and all(isinstance(first, int) for first in firsts):
        return Rows(fixed=fixed.pop())
    most = []
    for first in firsts:
        bounds = None if isinstance(first, int) else program.range_constraints.get(first.node.expr)
        if (
            bounds is not None
            and bounds.upper.is_finite
            and bounds.upper.is_number
            and bounds.upper < 1 << 31
        ):
            most.append(int(bounds.upper))
    return Rows(most=min(most, default=None))


def _in_training(program: torch.export.ExportedProgram) -> bool:
    for node in program.graph.nodes:
        name = str(node.target).partition(".")[2].partition(".")[0]
        place = _TRAINING_ARGUMENTS.get(name)
        if (
            node.op == "call_function"
            and place is not None
            and len(node.args) > place
            and node.args[place] is True
        ):
            return True
    return False


class FixedRows(torch.nn.Module):
    """A program that takes a fixed number of rows, for any number: fewer are filled up, more are taken in turns.

    Only for programs whose rows are independent of each other; see `independent`.

    Attributes:
        program: called with tensors of so many rows; every output has a row for each.
        rows: that number.
    """

    def __init__(self, program: torch.nn.Module, rows: int) -> None:
        super().__init__()
        self.program = program
        self.rows = rows

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        leaves, form = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim]
        given = {len(tensor) for tensor in tensors}
        if given == {self.rows} or len(given) != 1:
            return self.program(*args, **kwargs)
        (count,) = given
        turns = []
        for start in range(0, count, self.rows) or (0,):
            part = [
                (
                    self._filled(leaf[start : start + self.rows])
                    if isinstance(leaf, torch.Tensor) and leaf.ndim
                    else leaf
                )
                for leaf in leaves
            ]
            turn_args, turn_kwargs = pytree.tree_unflatten(part, form)
            turns.append(self.program(*turn_args, **turn_kwargs))
        return pytree.tree_map(lambda *parts: torch.cat(parts)[:count], *turns)

    def _filled(self, rows: torch.Tensor) -> torch.Tensor:
        lacking = self.rows - len(rows)
        if not lacking:
            return rows
        # Copies of a real row: zeros may be no valid input (a length, a divisor).
        filling = (
            rows[-1:].expand(lacking, *rows.shape[1:])
            if len(rows)
            else rows.new_zeros(lacking, *rows.shape[1:])
        )
        return torch.cat([rows, filling])


def fixed_rows(program: torch.nn.Module, rows: int) -> FixedRows:
    """The program for any number of rows, under its own parameters' names, which requests name inputs by."""

    def forward(self: FixedRows, *args: Any, **kwargs: Any) -> Any:
        return FixedRows.forward(self, *args, **kwargs)

    own = inspect.signature(program.forward)
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    forward.__signature__ = own.replace(parameters=[this, *own.parameters.values()])  # type: ignore[attr-defined]
    kind: type[FixedRows] = type("FixedRows", (FixedRows,), {"forward": forward})
    return kind(program, rows)


def independent(
    program: torch.nn.Module, rows: int, example: tuple[tuple[Any, ...], dict[str, Any]] | None
) -> bool:
    """Whether every row of the program's output comes of the same row of its input alone, as far as an example tells.

    Args:
        example: the inputs that it was exported with. Without them, or where their rows are all alike and cannot be
            changed, nothing is known, and the answer is no.
    """
    if example is None:
        return False
    leaves, form = pytree.tree_flatten(example)
    generator = torch.Generator().manual_seed(0)
    leaves = [_varied(leaf, generator) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    if rows > 1 and all(bool((leaf == leaf[:1]).all()) for leaf in leaves if isinstance(leaf, torch.Tensor)):
        return False
    with torch.inference_mode():
        plain = _outputs(program, leaves, form, lambda x: x)
        if not plain or any(not x.ndim or len(x) != rows for x in plain):
            return False
        turned = _outputs(program, leaves, form, lambda x: x.flip(0))
        lone = _outputs(program, leaves, form, lambda x: x[:1].expand(x.shape).contiguous())
    return all(
        _close(x, y.flip(0)) and _close(x[:1].expand(x.shape), z)
        for x, y, z in zip(plain, turned, lone, strict=True)
    )


def _outputs(
    program: torch.nn.Module, leaves: list[Any], form: Any, change: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    changed = [change(leaf) if isinstance(leaf, torch.Tensor) and leaf.ndim else leaf for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(changed, form)
    return [x for x in pytree.tree_leaves(program(*args, **kwargs)) if isinstance(x, torch.Tensor)]


def _varied(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The example with rows that differ, where its values may be anything; ids and flags stay as they are."""
    if not x.is_floating_point():
        return x
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float32).to(x)
    return x + noise * (x.abs() + 0.1) * 0.1


def _close(x: torch.Tensor, y: torch.Tensor) -> bool:
    return torch.allclose(x, y, rtol=1e-3, atol=1e-4, equal_nan=True)
