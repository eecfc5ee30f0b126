"""What a KServe V2 request says besides its numbers: names, parameters, and how it wants its answer.

Callers mostly send one form again and again. A `Form` is made and checked once, kept by `kserve_patterns`, and
remembers what stands before the numbers of its answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from libs.proto.kserve import InferRequest, InferTensor, Parameter, RequestedOutput
from libs.serving.errors import InvalidArgument
from services.torch_worker.execution.arguments import NamedInputs

# Parameters of Triton's extensions that change what an answer means, so that passing over them would be wrong.
_REFUSED_INPUT = ("shared_memory_region",)
_REFUSED_OUTPUT = ("shared_memory_region", "classification")
# The protocol's own request parameters, which are no business of the hooks.
_PROTOCOL = frozenset(("priority", "timeout", "binary_data_output"))
_INT64 = 1 << 63


@dataclass(slots=True, eq=False)
class Form:
    """A request without its arrays.

    Attributes:
        model_name, model_version, id: as sent.
        parameters: the request's parameters without the protocol's own.
        inputs: names, datatypes and shapes.
        requested: the outputs asked for; empty for all.
        raw: whether the answer's numbers travel as bytes: raw contents, or JSON's binary extension by default.
        priority: see `Request.priority`.
        timeout_s: how long the request may wait, from the parameter `timeout` (microseconds); None: not said.
        checked: the signature that inputs and requested were last found to agree with.
        heads: the bytes before an answer's numbers, by signature (of one version), shape and dtype.
    """

    model_name: str
    model_version: str
    id: str
    parameters: Mapping[str, Parameter]
    inputs: Sequence[tuple[str, str, tuple[int, ...]]]
    requested: Sequence[RequestedOutput]
    raw: bool
    priority: int = 0
    timeout_s: float | None = None
    checked: object = None
    heads: dict[tuple[Any, ...], bytes] = field(default_factory=dict)

    @staticmethod
    def of(request: InferRequest) -> Form:
        """The form of a decoded request.

        Raises:
            InvalidArgument: no inputs, a name twice, or parameters of a wrong type or of extensions that are not
                offered.
        """
        if not request.inputs:
            raise InvalidArgument("the request has no inputs")
        _once("input", [tensor.name for tensor in request.inputs])
        _once("requested output", [output.name for output in request.outputs])
        for tensor in request.inputs:
            _refuse(f"input {tensor.name!r}", tensor.parameters, _REFUSED_INPUT)
        for output in request.outputs:
            _refuse(f"requested output {output.name!r}", output.parameters, _REFUSED_OUTPUT)
        timeout = _integer(request.parameters, "timeout")
        return Form(
            request.model_name,
            request.model_version,
            request.id,
            {key: value for key, value in request.parameters.items() if key not in _PROTOCOL},
            [(tensor.name, tensor.datatype, tensor.array.shape) for tensor in request.inputs],
            request.outputs,
            request.raw,
            _integer(request.parameters, "priority"),
            timeout / 1e6 if timeout > 0 else None,
        )

    def meta(self) -> dict[str, Any]:
        """What the hooks get as kwargs["meta"], a dict of the request's own."""
        meta: dict[str, Any] = {"tags": {}, "parameters": dict(self.parameters)}
        if self.id:
            meta["puid"] = self.id
        return meta


def payload_of(tensors: Sequence[InferTensor]) -> Any:
    """The payload: the array of a single input, several by name."""
    if len(tensors) == 1:
        return tensors[0].array
    return NamedInputs((tensor.name, tensor.array) for tensor in tensors)


def _once(what: str, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None) if len(names) > 1 else None
    if twice is not None:
        raise InvalidArgument(f"{what} {twice!r} is there twice")


def _refuse(where: str, parameters: Mapping[str, Parameter], refused: Sequence[str]) -> None:
    for name in refused:
        if parameters.get(name):
            raise InvalidArgument(f"{where}: {name} is not offered here")


def _integer(parameters: Mapping[str, Parameter], name: str) -> int:
    """A whole-numbered parameter; 0 where absent. Some clients write their numbers as text."""
    value = parameters.get(name)
    if value is None:
        return 0
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -_INT64 <= value < _INT64:
        raise InvalidArgument(f"parameter {name!r}: expected a whole number, got {value!r}")
    return value
