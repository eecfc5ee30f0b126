"""A model's inputs and outputs: what config.toml declares, else what was seen of requests and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libs.proto.kserve import InferTensor
from libs.serving.errors import InvalidArgument
from services.torch_worker.protocols.kserve_forms import Form
from services.torch_worker.protocols.kserve_outputs import unknown_output
from services.torch_worker.protocols.kserve_spec import Spec, Tensor

# What most models take and give; no protocol message can say "unknown".
_GUESSED_INPUT = (Tensor("input_0", "FP32", (-1, -1)),)
_GUESSED_OUTPUT = (Tensor("output_0", "FP32", (-1, -1)),)


@dataclass(slots=True, eq=False)
class Signature:
    """Inputs and outputs of one model version.

    Attributes:
        inputs, outputs: declared; empty where nothing is.
    """

    inputs: Sequence[Spec] = ()
    outputs: Sequence[Spec] = ()
    _seen_inputs: Sequence[Spec] = ()
    _seen_outputs: Sequence[Spec] = ()

    @property
    def described_inputs(self) -> Sequence[Spec]:
        """The inputs for callers who ask: declared, seen, or guessed."""
        return self.inputs or self._seen_inputs or _GUESSED_INPUT

    @property
    def described_outputs(self) -> Sequence[Spec]:
        """The outputs for callers who ask: declared, seen, or guessed."""
        return self.outputs or self._seen_outputs or _GUESSED_OUTPUT

    def saw(self, form: Form, outputs: Sequence[InferTensor]) -> None:
        """A request of this form was answered with these outputs, all that the model gives."""
        if not self._seen_outputs:
            rows = form.inputs[0][2][:1]
            self._seen_inputs = [
                Tensor(name, datatype, _any_rows(shape, shape[:1])) for name, datatype, shape in form.inputs
            ]
            self._seen_outputs = [Tensor(t.name, t.datatype, _any_rows(t.array.shape, rows)) for t in outputs]

    def check(self, form: Form) -> None:
        """Whether a request agrees with what is declared.

        Raises:
            InvalidArgument: an input is missing, unknown, or of another datatype or shape; an output is unknown.
        """
        if form.checked is self:
            return
        if self.inputs:
            specs = {spec.name: spec for spec in self.inputs}
            given = [name for name, _, _ in form.inputs]
            for name, datatype, shape in form.inputs:
                if name not in specs:
                    known = ", ".join(map(repr, specs))
                    raise InvalidArgument(f"unknown input {name!r}; this model takes {known}")
                _check_input(specs[name], datatype, shape)
            missing = [name for name in specs if name not in given]
            if missing:
                raise InvalidArgument(f"the request lacks the input {missing[0]!r}")
        if self.outputs:
            known_outputs = [spec.name for spec in self.outputs]
            for output in form.requested:
                if output.name not in known_outputs:
                    raise unknown_output(output.name, known_outputs)
        form.checked = self


def _check_input(spec: Spec, datatype: str, shape: tuple[int, ...]) -> None:
    if datatype != spec.datatype:
        raise InvalidArgument(f"input {spec.name!r} takes {spec.datatype}, got {datatype}")
    fits = len(shape) == len(spec.shape) and all(
        wanted in (-1, size) for wanted, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise InvalidArgument(f"input {spec.name!r} takes the shape {list(spec.shape)}, got {list(shape)}")


def _any_rows(shape: tuple[int, ...], rows: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with -1 for the rows: its first dimension, or the second, behind the heads that make one array."""
    at = next((at for at, size in enumerate(shape[:2]) if (size,) == rows), None)
    return shape if at is None else (*shape[:at], -1, *shape[at + 1 :])
