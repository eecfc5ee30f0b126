"""KServe V2 over a repository, whatever carries it: finding the model, inference, metadata."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from libs.proto.kserve import InferTensor
from libs.serving.call import Call
from libs.serving.errors import Unavailable
from libs.serving.versions import State
from services.torch_worker.protocols.kserve_forms import Form
from services.torch_worker.protocols.kserve_outputs import output_tensors, pick
from services.torch_worker.protocols.kserve_signature import Signature
from services.torch_worker.protocols.kserve_spec import Spec
from services.torch_worker.serving.repository import Repository
from services.torch_worker.serving.servable import Request, Servable

PLATFORM = "pytorch"
SERVER_NAME = "torch-worker"
SERVER_VERSION = "1"
EXTENSIONS = ("binary_tensor_data", "parameters", "schedule_policy")

# Callers of the gateway name a model "<name>-<task id>", and the gateway passes that on.
_TASK_SUFFIX = re.compile(r"-\d+$")

_STATES = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}

Encode = Callable[[Form, Signature, str, Any], bytes]
"""Makes the answer to a form, of a model of that signature, by the version that answered, with that result."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """The answer to a question for a model's metadata."""

    name: str
    versions: Sequence[str]
    platform: str
    inputs: Sequence[Spec]
    outputs: Sequence[Spec]


class KServeModel:
    """The protocol's operations. Used on the event loop's thread."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._signatures: WeakKeyDictionary[Servable, Signature] = WeakKeyDictionary()

    def find(self, name: str, version: str) -> Servable:
        """The version of the model that a request names; the name may end in a task's id, or be empty.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is not loaded.
        """
        mine = self._repository.name
        if name != mine and (not name or _TASK_SUFFIX.sub("", name) == mine):
            name = mine
        return self._repository.find(name, version)

    async def infer(self, call: Call, form: Form, payload: Any, encode: Encode) -> bytes:
        """The answer to one inference, made by encode.

        Raises:
            InvalidArgument: the request does not agree with what the model declares.
            ServingError: see `find` and `Servable.predict`.
        """
        servable = self.find(form.model_name, form.model_version)
        signature = self._signature(servable)
        signature.check(form)
        if form.timeout_s is not None:
            until = time.monotonic() + form.timeout_s
            call.deadline = until if call.deadline is None else min(call.deadline, until)
        version = servable.version

        def answer(result: Any, class_names: tuple[str, ...] | None) -> bytes:
            return encode(form, signature, version, result)

        return await servable.predict(call, Request(payload, form.meta(), answer, form.priority))

    def ready(self, name: str, version: str) -> bool:
        """Whether a version of the model takes requests.

        Raises:
            NotFound: there is no such model or version.
        """
        try:
            self.find(name, version)
        except Unavailable:
            return False
        return True

    def metadata(self, name: str, version: str) -> ModelMetadata:
        """What is known of a version of the model; its name is the caller's.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is not loaded.
        """
        signature = self._signature(self.find(name, version))
        return ModelMetadata(
            name or self._repository.name,
            [version] if version else [str(number) for number in self._repository.versions()],
            PLATFORM,
            signature.described_inputs,
            signature.described_outputs,
        )

    def index(self, only_ready: bool) -> list[tuple[str, str, str, str]]:
        """Name, number, state and its reason of every version that is known; state and reason are Triton's words."""
        known = [
            (self._repository.name, str(version.number), _STATES[version.state], version.error)
            for version in self._repository.states()
        ]
        return [entry for entry in known if entry[2] == "READY"] if only_ready else known

    def _signature(self, servable: Servable) -> Signature:
        signature = self._signatures.get(servable)
        if signature is None:
            signature = self._signatures[servable] = Signature(servable.inputs, servable.outputs)
        return signature


def outputs_of(form: Form, signature: Signature, result: Any) -> Sequence[InferTensor]:
    """The outputs that a request gets of a result.

    Raises:
        InvalidArgument: it asks for one that there is not.
        Internal: the result cannot be put into tensors.
    """
    tensors = output_tensors(result, signature.outputs)
    signature.saw(form, tensors)
    return pick(tensors, form.requested)
