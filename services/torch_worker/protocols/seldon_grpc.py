"""Seldon's gRPC methods: SeldonMessage in, SeldonMessage out."""

from __future__ import annotations

from functools import partial
from typing import Any

from libs.proto.seldon import DataKind
from libs.proto.wire import ProtoError
from libs.serving.call import Call, Handler
from libs.serving.errors import InvalidArgument
from services.torch_worker.protocols.seldon_answers import custom_payload, encode_answer, further_meta
from services.torch_worker.protocols.seldon_patterns import AnswerEncoder, RequestDecoder
from services.torch_worker.serving.repository import Repository
from services.torch_worker.serving.servable import Request

METHODS = ("/seldon.protos.Model/Predict", "/seldon.protos.Seldon/Predict")


class SeldonGrpc:
    """Seldon's Predict over a repository, whose default version answers: the protocol has no model names."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._decoder = RequestDecoder()
        self._encoder = AnswerEncoder()

    def handlers(self) -> dict[str, Handler]:
        """Handlers by method path."""
        return dict.fromkeys(METHODS, self.predict)

    async def predict(self, call: Call, body: bytes) -> bytes:
        """Answer one SeldonMessage with one.

        Raises:
            InvalidArgument: the message is malformed or carries nothing that this model takes.
            ServingError: see `Servable.predict`.
        """
        try:
            request = self._decoder.decode(body)
        except ProtoError as error:
            raise InvalidArgument(f"not a SeldonMessage that can be read: {error}") from error
        if request.kind is None:
            raise InvalidArgument(
                "the SeldonMessage carries no payload; expected one of data.tensor, data.ndarray, "
                "data.tftensor, binData, strData, jsonData, customData"
            )
        meta: dict[str, Any] = {"tags": request.tags}
        if request.puid:
            meta["puid"] = request.puid
        if request.names:
            meta["names"] = request.names
        if request.more_meta:
            meta |= further_meta(request.raw_meta)
        payload = request.payload if request.kind is not DataKind.CUSTOM else custom_payload(request.payload)
        encode = partial(encode_answer, request, tensors=self._encoder)
        return await self._repository.default().predict(call, Request(payload, meta, encode))
