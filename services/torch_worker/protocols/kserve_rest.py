"""KServe V2 over HTTP: /v2 ..., JSON with the binary extension that tritonclient uses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from libs.proto.kserve import InferTensor
from libs.proto.kserve_json import HEADER, decode_request, encode_response
from libs.proto.wire import ProtoError
from libs.serving.call import HttpRequest, HttpResponse, Route
from libs.serving.errors import InvalidArgument, ServingError
from services.torch_worker.protocols.kserve_forms import Form, payload_of
from services.torch_worker.protocols.kserve_model import (
    EXTENSIONS,
    SERVER_NAME,
    SERVER_VERSION,
    KServeModel,
    outputs_of,
)
from services.torch_worker.protocols.kserve_signature import Signature
from services.torch_worker.protocols.kserve_spec import Spec

JSON = "application/json"
# What follows the JSON is no JSON.
_WITH_BINARY = "application/octet-stream"
# Bodies longer than this are parsed off the event loop: JSON takes some 10 ns a byte.
_LARGE_BYTES = 64 << 10


class KServeRest:
    """The protocol's paths over one model.

    Args:
        server_ready: whether the whole server takes traffic.
    """

    def __init__(self, model: KServeModel, server_ready: Callable[[], bool]) -> None:
        self._model = model
        self._server_ready = server_ready

    def routes(self) -> list[Route]:
        """The paths."""
        routes = [
            Route("GET", "/v2", self.server_metadata, fail),
            Route("GET", "/v2/", self.server_metadata, fail),
            Route("GET", "/v2/health/live", self.live, fail),
            Route("GET", "/v2/health/ready", self.ready, fail),
            Route("POST", "/v2/repository/index", self.repository_index, fail),
        ]
        for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                Route("GET", model, self.metadata, fail),
                Route("GET", f"{model}/ready", self.model_ready, fail),
                Route("POST", f"{model}/infer", self.infer, fail),
            ]
        return routes

    async def server_metadata(self, request: HttpRequest) -> HttpResponse:
        """GET /v2."""
        return _json({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": list(EXTENSIONS)})

    async def live(self, request: HttpRequest) -> HttpResponse:
        """GET /v2/health/live."""
        return _json({"live": True})

    async def ready(self, request: HttpRequest) -> HttpResponse:
        """GET /v2/health/ready: 503 while traffic is not welcome."""
        ready = self._server_ready()
        return _json({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: HttpRequest) -> HttpResponse:
        """GET /v2/models/NAME/ready: 503 while it is not, 404 for another name or version."""
        name, version = _asked(request)
        ready = self._model.ready(name, version)
        return _json({"name": name, "ready": ready}, 200 if ready else 503)

    async def metadata(self, request: HttpRequest) -> HttpResponse:
        """GET /v2/models/NAME."""
        known = self._model.metadata(*_asked(request))
        return _json(
            {
                "name": known.name,
                "versions": list(known.versions),
                "platform": known.platform,
                "inputs": _described(known.inputs),
                "outputs": _described(known.outputs),
            }
        )

    async def repository_index(self, request: HttpRequest) -> HttpResponse:
        """POST /v2/repository/index: every version and its state."""
        try:
            asked = json.loads(request.body or b"{}")
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"the body is not valid JSON: {error}") from None
        only_ready = isinstance(asked, dict) and asked.get("ready") is True
        keys = ("name", "version", "state", "reason")
        return _json([dict(zip(keys, entry, strict=True)) for entry in self._model.index(only_ready)])

    async def infer(self, request: HttpRequest) -> HttpResponse:
        """POST /v2/models/NAME/infer.

        Raises:
            InvalidArgument: the body is no inference request, or not what this model takes.
            ServingError: see `KServeModel.infer`.
        """
        header = request.headers.get(HEADER)
        if header is not None and not header.isdecimal():
            raise InvalidArgument(f"{HEADER}: expected a length in bytes, got {header!r}")
        length = None if header is None else int(header)
        body = request.body
        try:
            if len(body) > _LARGE_BYTES:
                asked = await asyncio.to_thread(decode_request, body, length)
            else:
                asked = decode_request(body, length)
        except ProtoError as error:
            raise InvalidArgument(str(error)) from error
        form = Form.of(asked)
        form.model_name, form.model_version = _asked(request)
        answered = HttpResponse(content_type=JSON)

        def encode(form: Form, signature: Signature, version: str, result: Any) -> bytes:
            message, json_bytes = _encode(form, outputs_of(form, signature, result), version)
            if json_bytes is not None:
                answered.content_type = _WITH_BINARY
                answered.headers["Inference-Header-Content-Length"] = str(json_bytes)
            return message

        answered.body = await self._model.infer(request.call(), form, payload_of(asked.inputs), encode)
        return answered


def fail(status: int, error: ServingError) -> HttpResponse:
    """An error as the protocol has it."""
    return _json({"error": error.message}, status)


def _encode(form: Form, outputs: Sequence[InferTensor], version: str) -> tuple[bytes, int | None]:
    wishes = {output.name: output.parameters.get("binary_data") for output in form.requested}
    binary = [bool(form.raw if wishes.get(t.name) is None else wishes[t.name]) for t in outputs]
    try:
        return encode_response(form.model_name, outputs, binary, model_version=version, id=form.id)
    except ProtoError as error:
        raise InvalidArgument(str(error)) from error


def _asked(request: HttpRequest) -> tuple[str, str]:
    return request.params["name"], request.params.get("version", "")


def _described(specs: Sequence[Spec]) -> list[dict[str, Any]]:
    return [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in specs]


def _json(document: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(status, json.dumps(document, ensure_ascii=False).encode(), JSON)
