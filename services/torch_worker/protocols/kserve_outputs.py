"""From a result to the named output tensors of a KServe V2 answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from libs.proto.kserve import InferTensor, RequestedOutput
from libs.proto.kserve_tensor import datatype
from libs.proto.wire import ProtoError
from libs.serving.errors import Internal, InvalidArgument
from services.torch_worker.execution.tensors import listed, to_numpy
from services.torch_worker.model.answer import Answer
from services.torch_worker.protocols.kserve_spec import Spec


def output_tensors(result: Any, declared: Sequence[Spec] = ()) -> list[InferTensor]:
    """All outputs of a result.

    A dict gives an output for each key. An array is the declared output's, else `output_0`. Where several outputs
    are declared, a list of as many results (or, as the default postprocess makes of equal ones, an array with that
    first dimension) gives one for each; a list that is no array gives `output_0`, `output_1` ...  A str or bytes is
    a BYTES tensor of shape [1].

    Args:
        result: what postprocess returned.
        declared: [[outputs]] of config.toml; their datatypes are the answer's.

    Raises:
        Internal: there is no result, or one that no tensor can carry, or not what is declared.
    """
    if isinstance(result, Answer):
        result = result.payload
    named = _named(result, [spec.name for spec in declared])
    specs = {spec.name: spec for spec in declared}
    return [_tensor(name, value, specs.get(name)) for name, value in named.items()]


def pick(tensors: Sequence[InferTensor], requested: Sequence[RequestedOutput]) -> Sequence[InferTensor]:
    """The outputs that a request asks for, in its order; all where it names none.

    Raises:
        InvalidArgument: it names one that there is not.
    """
    if not requested:
        return tensors
    by_name = {tensor.name: tensor for tensor in tensors}
    for output in requested:
        if output.name not in by_name:
            raise unknown_output(output.name, list(by_name))
    return [by_name[output.name] for output in requested]


def unknown_output(name: str, known: Sequence[str]) -> InvalidArgument:
    """The error for a requested output that the model does not have."""
    return InvalidArgument(f"unknown output {name!r}; this model answers {', '.join(map(repr, known))}")


def _named(result: Any, names: Sequence[str]) -> Mapping[str, Any]:
    if result is None:
        raise Internal("the result is None; postprocess must return an array, a list, a str, bytes or a dict")
    if isinstance(result, Mapping):
        if not result:
            raise Internal("the result is an empty dict, which has no outputs")
        return {str(key): value for key, value in result.items()}
    if len(names) > 1:
        if isinstance(result, list | tuple | np.ndarray | torch.Tensor) and len(result) == len(names):
            return dict(zip(names, result, strict=True))
        raise Internal(f"config.toml declares {len(names)} outputs, the result is {_describe(result)}")
    if isinstance(result, list | tuple) and _ragged(result):
        return {f"output_{at}": value for at, value in enumerate(result)}
    return {names[0] if names else "output_0": result}


def _ragged(values: Sequence[Any]) -> bool:
    try:
        np.asarray(to_numpy(values))
    except ValueError:
        return True
    return False


def _tensor(name: str, value: Any, spec: Spec | None) -> InferTensor:
    array = _array(value)
    try:
        if spec is not None and array.dtype.kind in "fiub" and spec.datatype != "BYTES":
            array = _as_declared(name, array, spec.datatype)
            return InferTensor(name, spec.datatype, array)
        return InferTensor.of(name, array)
    except ProtoError as error:
        raise Internal(f"output {name!r}: {error}") from error


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, torch.Tensor):
        value = to_numpy(value)
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str | bytes | bytearray | memoryview):
        return _single(value if isinstance(value, str) else bytes(value))
    if not isinstance(value, Mapping) and value is not None:
        try:
            array = np.asarray(to_numpy(value))
        except ValueError:
            array = None
        if array is not None and not array.dtype.hasobject:
            return array
        if array is not None and all(isinstance(item, str | bytes) for item in array.ravel()):
            return array
    try:
        return _single(json.dumps(listed(value), ensure_ascii=False))
    except (TypeError, ValueError) as error:
        raise Internal(f"the result holds {_describe(value)}, which no tensor can carry") from error


def _single(value: str | bytes) -> np.ndarray[Any, Any]:
    array = np.empty(1, object)
    array[0] = value
    return array


def _as_declared(name: str, array: np.ndarray[Any, Any], declared: str) -> np.ndarray[Any, Any]:
    dtype = datatype(declared).array
    if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise Internal(f"output {name!r} is {array.dtype}, config.toml declares {declared}")
    return array.astype(dtype, copy=False)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray | torch.Tensor):
        return f"an array of shape {list(value.shape)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
