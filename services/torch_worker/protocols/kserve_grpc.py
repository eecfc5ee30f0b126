"""inference.GRPCInferenceService: KServe V2 (Triton's protocol) over gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from libs.proto.kserve import encode_response
from libs.proto.kserve_metadata import (
    decode_index_request,
    decode_model_name,
    encode_flag,
    encode_index,
    encode_model_metadata,
    encode_server_metadata,
)
from libs.proto.kserve_tensor import DATATYPES
from libs.proto.wire import ProtoError
from libs.serving.call import Call, Handler
from libs.serving.errors import Internal, InvalidArgument, NotFound
from services.torch_worker.protocols.kserve_forms import Form
from services.torch_worker.protocols.kserve_model import (
    EXTENSIONS,
    SERVER_NAME,
    SERVER_VERSION,
    KServeModel,
    outputs_of,
)
from services.torch_worker.protocols.kserve_patterns import FormDecoder
from services.torch_worker.protocols.kserve_signature import Signature

SERVICE = "inference.GRPCInferenceService"
# Answers whose beginning a form remembers: one version of a model has few answer shapes for one request's.
_MAX_HEADS = 8


class KServeGrpc:
    """The service's unary methods over one model.

    Args:
        server_ready: whether the whole server takes traffic.
    """

    def __init__(self, model: KServeModel, server_ready: Callable[[], bool]) -> None:
        self._model = model
        self._server_ready = server_ready
        self._decoder = FormDecoder()

    def handlers(self) -> dict[str, Handler]:
        """Handlers by method path."""
        return {
            f"/{SERVICE}/ModelInfer": self.infer,
            f"/{SERVICE}/ServerLive": self.server_live,
            f"/{SERVICE}/ServerReady": self.server_ready,
            f"/{SERVICE}/ModelReady": self.model_ready,
            f"/{SERVICE}/ServerMetadata": self.server_metadata,
            f"/{SERVICE}/ModelMetadata": self.model_metadata,
            f"/{SERVICE}/RepositoryIndex": self.repository_index,
        }

    async def infer(self, call: Call, body: bytes) -> bytes:
        """One ModelInferRequest to one ModelInferResponse.

        Raises:
            InvalidArgument: the message is malformed, or not what this model takes.
            ServingError: see `KServeModel.infer`.
        """
        try:
            form, payload = self._decoder.decode(body)
        except ProtoError as error:
            raise InvalidArgument(f"not a ModelInferRequest that can be read: {error}") from error
        return await self._model.infer(call, form, payload, encode_answer)

    async def server_live(self, call: Call, body: bytes) -> bytes:
        """ServerLive: the process answers."""
        return encode_flag(True)

    async def server_ready(self, call: Call, body: bytes) -> bytes:
        """ServerReady: traffic is welcome."""
        return encode_flag(self._server_ready())

    async def model_ready(self, call: Call, body: bytes) -> bytes:
        """ModelReady: no error but "not ready" for a model or version that is not here, as Triton says it: callers wait
        by it for what is still to come.
        """
        try:
            return encode_flag(self._model.ready(*_model_name(body)))
        except NotFound:
            return encode_flag(False)

    async def server_metadata(self, call: Call, body: bytes) -> bytes:
        """ServerMetadata."""
        return encode_server_metadata(SERVER_NAME, SERVER_VERSION, EXTENSIONS)

    async def model_metadata(self, call: Call, body: bytes) -> bytes:
        """ModelMetadata. Raises NotFound for a model or version that is not here."""
        known = self._model.metadata(*_model_name(body))
        inputs, outputs = (
            [(spec.name, spec.datatype, spec.shape) for spec in specs]
            for specs in (known.inputs, known.outputs)
        )
        return encode_model_metadata(known.name, known.versions, known.platform, inputs, outputs)

    async def repository_index(self, call: Call, body: bytes) -> bytes:
        """RepositoryIndex: every version and its state."""
        try:
            only_ready = decode_index_request(body)
        except ProtoError as error:
            raise InvalidArgument(f"the request cannot be read: {error}") from error
        return encode_index(self._model.index(only_ready))


def encode_answer(form: Form, signature: Signature, version: str, result: Any) -> bytes:
    """The ModelInferResponse of a result.

    Raises:
        InvalidArgument, Internal: see `outputs_of`.
    """
    key = None
    if form.raw and type(result) is np.ndarray:
        key = (signature, result.shape, result.dtype)
        head = form.heads.get(key)
        if head is not None:
            return head + result.tobytes()
    tensors = outputs_of(form, signature, result)
    # FP16 and BF16 have no typed contents, and an answer is of one kind.
    raw = form.raw or not all(DATATYPES[tensor.datatype].contents for tensor in tensors)
    try:
        message = encode_response(form.model_name, tensors, model_version=version, id=form.id, raw=raw)
    except ProtoError as error:
        raise Internal(f"the answer cannot be encoded: {error}") from error
    if key is not None and result.dtype.kind in "fiub":
        values = result.tobytes()
        if (
            values
            and message.endswith(values)
            and len(tensors) == 1
            and tensors[0].array.dtype == result.dtype
        ):
            if len(form.heads) >= _MAX_HEADS:
                form.heads.clear()
            form.heads[key] = message[: -len(values)]
    return message


def _model_name(body: bytes) -> tuple[str, str]:
    try:
        return decode_model_name(body)
    except ProtoError as error:
        raise InvalidArgument(f"the request cannot be read: {error}") from error
