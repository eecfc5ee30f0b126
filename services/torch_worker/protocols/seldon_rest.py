"""Seldon's protocol over HTTP, as seldon-core's REST microservice has it."""

from __future__ import annotations

import asyncio
import base64
import json
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from libs.serving.call import HttpRequest, HttpResponse, Route
from libs.serving.errors import InvalidArgument, ServingError
from services.torch_worker.protocols.seldon_json import JsonRequest, decode_json, encode_json, read_document
from services.torch_worker.serving.repository import Repository
from services.torch_worker.serving.servable import Request

JSON = "application/json"
PATHS = ("/predict", "/api/v1.0/predictions", "/api/v0.1/predictions")
_FORM = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
# Bodies longer than this are parsed off the event loop: JSON takes some 10 ns a byte.
_LARGE_BYTES = 64 << 10


class SeldonRest:
    """Predictions over a repository, whose default version answers."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def routes(self) -> list[Route]:
        """The paths."""
        return [
            Route("GET", PATHS[0], self.predict, fail),
            *(Route("POST", path, self.predict, fail) for path in PATHS),
            Route("GET", "/health/ping", self.ping, fail),
        ]

    async def predict(self, request: HttpRequest) -> HttpResponse:
        """Answer one SeldonMessage with one.

        Raises:
            InvalidArgument: the request is no SeldonMessage, or nothing that this model takes.
            ServingError: see `Servable.predict`.
        """
        if len(request.body) > _LARGE_BYTES:
            asked = await asyncio.to_thread(_read, request)
        else:
            asked = _read(request)
        servable = self._repository.default()
        payload = asked.payload
        if not servable.preprocesses and isinstance(payload, np.ndarray) and payload.dtype.kind in "iu":
            # As gRPC has it, whose numbers are doubles: no model with float weights takes ints.
            payload = payload.astype(np.float64)
        meta: dict[str, Any] = {**asked.meta, "tags": dict(asked.meta.get("tags") or {})}
        if asked.names:
            meta["names"] = asked.names

        def encode(result: Any, class_names: tuple[str, ...] | None) -> bytes:
            return encode_json(asked, result, class_names)

        body = await servable.predict(request.call(), Request(payload, meta, encode))
        return HttpResponse(200, body, JSON)

    async def ping(self, request: HttpRequest) -> HttpResponse:
        """GET /health/ping: the process answers."""
        return HttpResponse(200, b"pong")


def fail(status: int, error: ServingError) -> HttpResponse:
    """An error as seldon-core has it: the code is always -1, the HTTP status says more."""
    reason = "MICROSERVICE_BAD_DATA" if status < 500 else "MICROSERVICE_INTERNAL_ERROR"
    described = {"status": 1, "info": error.message, "code": -1, "reason": reason}
    return HttpResponse(status, json.dumps({"status": described}, ensure_ascii=False).encode(), JSON)


def _read(request: HttpRequest) -> JsonRequest:
    """The message in a form's field `json`, in the query's, in the fields of a multipart form, or the body itself."""
    kind = request.headers.get("content-type", "")
    if kind.startswith(_MULTIPART):
        return read_document(_multipart(request.body, kind))
    if kind.startswith(_FORM) and request.body.startswith(b"json="):
        return decode_json(_field(request.body.decode("latin-1")))
    text = _field(request.query)
    return decode_json(text if text else request.body)


def _field(form: str) -> str:
    return parse_qs(form, max_num_fields=64).get("json", [""])[0] if form else ""


def _multipart(body: bytes, content_type: str) -> dict[str, Any]:
    """The parts of a SeldonMessage in a multipart form: binData and strData as they are, the others as JSON."""
    message = BytesParser(policy=HTTP).parsebytes(
        b"content-type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    document: dict[str, Any] = {}
    for part in message.iter_parts() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        if not isinstance(name, str):
            continue
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        try:
            if name == "binData":
                document[name] = base64.b64encode(content).decode()
            elif name == "strData":
                document[name] = content.decode()
            else:
                document[name] = json.loads(content)
        except ValueError as error:
            raise InvalidArgument(f"the form's part {name}: {error}") from None
    return document
