"""What a SavedModel's signatures promise, and checking a request's tensors against it.

Error texts follow TensorFlow Serving's where it has one (servables/tensorflow/predict_util.cc), because
callers and their alerts match on them; where TensorFlow Serving leaves the check to a kernel, the text
names the input and says what was expected and what was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from libs.proto.dtypes import DataType
from libs.serving.errors import FailedPrecondition, InvalidArgument

DEFAULT_SIGNATURE = "serving_default"
"""The signature of requests that name none."""

Shape = tuple[int, ...]


def dtype_name(data_type: int) -> str:
    """TensorFlow's name of a DataType in its messages: `float`, `int32`, `string`."""
    try:
        return DataType(data_type).name.removeprefix("DT_").lower()
    except ValueError:
        return "invalid" if data_type == 0 else f"dtype {data_type}"


def shape_text(shape: Shape | None) -> str:
    """`[2,3]`, `[?,72]` for an unknown size, `<unknown>` for an unknown rank: TensorFlow's DebugString."""
    if shape is None:
        return "<unknown>"
    return "[" + ",".join("?" if size < 0 else str(size) for size in shape) + "]"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its tensor in the graph, its DataType, its shape (-1 any size, None any rank)."""

    tensor: str
    data_type: int
    shape: Shape | None

    def accepts(self, shape: Shape) -> bool:
        """Whether a tensor of this concrete shape may be fed."""
        wanted = self.shape
        if wanted is None:
            return True
        if len(shape) != len(wanted):
            return False
        # On every call's way: `all` of a generator takes twice as long.
        for want, have in zip(wanted, shape, strict=True):  # noqa: SIM110
            if want != have and want != -1:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature. Inputs and outputs are ordered by name, so that positions are the same everywhere.

    `defaults` holds serialized TensorProtos for inputs that a request may leave out. `batchable` is whether
    every input and output declares a first dimension of any size: rows of several calls can share a run.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = ""
    defaults: Mapping[str, bytes] | None = None
    batchable: bool = field(init=False)

    def __post_init__(self) -> None:
        specs = [*self.inputs.values(), *self.outputs.values()]
        rows = all(spec.shape is not None and spec.shape[:1] == (-1,) for spec in specs)
        object.__setattr__(self, "batchable", bool(self.inputs) and rows)


def find(signatures: Mapping[str, Signature], name: str) -> Signature:
    """The signature called `name`; the empty name means the default one.

    Raises:
        FailedPrecondition: there is none, with TensorFlow Serving's text.
    """
    wanted = name or DEFAULT_SIGNATURE
    signature = signatures.get(wanted)
    if signature is None:
        raise FailedPrecondition(
            f'Serving signature key "{wanted}" not found. Signatures of this model: {_set(signatures)}.'
        )
    return signature


def check_input_names(signature: Signature, given: Iterable[str]) -> None:
    """Every input is given (or has a default), and nothing else.

    Raises:
        InvalidArgument: with the names that are too many and those that are missing, in the text that
            TensorFlow Serving has for it: there is one for a wrong number of inputs, others for wrong names.
    """
    names = set(given)
    if names == signature.inputs.keys():
        return
    defaults = (signature.defaults or {}).keys()
    extra, missing = names - signature.inputs.keys(), signature.inputs.keys() - names
    if len(names) > len(signature.inputs) or (len(names) < len(signature.inputs) and not defaults):
        raise InvalidArgument(
            f"input size does not match signature: {len(names)}!={len(signature.inputs)} "
            f"len({_set(names)}) != len({_set(signature.inputs)}). "
            f"Sent extra: {_set(extra)}. Missing but required: {_set(missing)}."
        )
    for name in sorted(missing - defaults):
        raise InvalidArgument(
            f"Signature input alias: {name}(feed name: {signature.inputs[name].tensor}) not found in request "
            f"and no default value provided. Inputs expected to be in the request {_set(names)}, "
            f"or default input alias set: {','.join(sorted(defaults))}"
        )
    if extra:
        raise InvalidArgument(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(names - extra))}, "
            f"request input: {','.join(sorted(names))}"
        )


def check_tensor(signature: Signature, name: str, data_type: int, shape: Shape) -> None:
    """One given tensor fits its input.

    Raises:
        InvalidArgument: its dtype or its shape is not what the signature declares.
    """
    spec = signature.inputs[name]
    if data_type != spec.data_type:
        position = list(signature.inputs).index(name)
        raise InvalidArgument(
            f"Expects arg[{position}] to be {dtype_name(spec.data_type)} "
            f"but {dtype_name(data_type)} is provided "
            f'(input "{name}" of signature "{signature.name}")'
        )
    if not spec.accepts(shape):
        raise InvalidArgument(
            f'input "{name}" of signature "{signature.name}" has the wrong shape: '
            f"expected {shape_text(spec.shape)} but {shape_text(shape)} is given"
        )


def choose_outputs(signature: Signature, output_filter: Sequence[str]) -> tuple[str, ...]:
    """The names of the outputs to answer: all of them for an empty filter.

    Raises:
        InvalidArgument: the filter names an unknown output, or one twice.
    """
    if not output_filter:
        return tuple(signature.outputs)
    seen: set[str] = set()
    for name in output_filter:
        if name not in signature.outputs:
            raise InvalidArgument(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_set(signature.outputs)}."
            )
        if name in seen:
            raise InvalidArgument(f"duplicate output tensor alias: {name}")
        seen.add(name)
    return tuple(output_filter)


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
