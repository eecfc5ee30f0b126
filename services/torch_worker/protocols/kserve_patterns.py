"""Decoding and encoding KServe V2 messages that look like the one before; see `seldon_patterns` for the idea.

A request whose tensors are runs of bytes within the message (raw contents, typed FP32 and FP64) is described by
the bytes between these runs. Another message of the same length with the same bytes there parses alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from libs.proto.kserve import InferRequest, InferTensor, decode_request
from services.torch_worker.execution.arguments import NamedInputs
from services.torch_worker.protocols.kserve_forms import Form, payload_of

# Patterns kept, by message length; longer frames seldom repeat; misses until a pattern is replaced.
_MAX_PATTERNS = 64
_MAX_FRAME_BYTES = 4096
_MISSES_PER_REPLACEMENT = 16


@dataclass(slots=True)
class _Run:
    """One tensor within a message, and the bytes before it, back to the tensor before."""

    name: str
    before: bytes
    begin: int
    start: int
    dtype: np.dtype[Any]
    count: int
    shape: tuple[int, ...]

    def view(self, body: bytes) -> np.ndarray[Any, Any]:
        return np.frombuffer(body, self.dtype, self.count, self.start).reshape(self.shape)


@dataclass(slots=True)
class _Pattern:
    head: bytes
    tail: bytes
    first: _Run
    rest: tuple[_Run, ...]
    form: Form
    misses: int = 0

    def match(self, body: bytes) -> Any:
        """The payload of a message of this pattern's length, None if it is another."""
        if not (body.startswith(self.head) and body.endswith(self.tail)):
            return None
        if not self.rest:
            return self.first.view(body)
        arrays = NamedInputs({self.first.name: self.first.view(body)})
        for run in self.rest:
            if body[run.begin : run.start] != run.before:
                return None
            arrays[run.name] = run.view(body)
        return arrays


class FormDecoder:
    """Reads ModelInferRequests. For one thread."""

    def __init__(self) -> None:
        self._patterns: dict[int, _Pattern] = {}

    def decode(self, body: bytes) -> tuple[Form, Any]:
        """The form of a serialized ModelInferRequest, maybe shared with others like it, and the payload.

        Raises:
            ProtoError: the bytes are no ModelInferRequest.
            InvalidArgument: see `Form.of`.
        """
        pattern = self._patterns.get(len(body))
        if pattern is not None:
            payload = pattern.match(body)
            if payload is not None:
                return pattern.form, payload
            pattern.misses += 1
        request = decode_request(body)
        form = Form.of(request)
        if pattern is None:
            if len(self._patterns) < _MAX_PATTERNS:
                self._learn(body, request, form)
        elif pattern.misses % _MISSES_PER_REPLACEMENT == 0:
            self._learn(body, request, form)
        return form, payload_of(request.inputs)

    def _learn(self, body: bytes, request: InferRequest, form: Form) -> None:
        runs = _runs(body, request)
        if not runs:
            return
        end = runs[-1].start + runs[-1].count * runs[-1].dtype.itemsize
        if len(body) - sum(run.count * run.dtype.itemsize for run in runs) > _MAX_FRAME_BYTES:
            return
        first, *rest = runs
        self._patterns[len(body)] = _Pattern(first.before, bytes(body[end:]), first, tuple(rest), form)


def _runs(body: bytes, request: InferRequest) -> list[_Run]:
    """The tensors in their order within the message; none if one was copied out of it."""
    base = _address(np.frombuffer(body, np.uint8))
    placed = sorted((_address(tensor.array) - base, at) for at, tensor in enumerate(request.inputs))
    runs: list[_Run] = []
    begin = 0
    for start, at in placed:
        tensor: InferTensor = request.inputs[at]
        array = tensor.array
        inside = array.size and begin <= start and start + array.nbytes <= len(body)
        if not inside or not array.flags.c_contiguous or array.dtype.hasobject:
            return []
        before = bytes(body[begin:start])
        runs.append(_Run(tensor.name, before, begin, start, array.dtype, array.size, array.shape))
        begin = start + array.nbytes
    return runs


def _address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])
