"""TensorFlow Serving's REST API: paths and methods to the calls that gRPC serves too.

Paths are those of tensorflow_serving/model_servers/http_rest_api_util.cc; everything below /v1 that is none of them is
answered with 400 and "Malformed request", whatever the method. Errors are {"error": "..."}.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar
from urllib.parse import unquote

from numpy.typing import NDArray

from libs.serving.call import Call, HttpHandler, HttpRequest, HttpResponse, Route
from libs.serving.errors import InvalidArgument, ServingError
from services.tf_serving.execution.inference import Plan
from services.tf_serving.model.signature import DEFAULT_SIGNATURE
from services.tf_serving.protocols import rest_examples, rest_inputs, rest_json, rest_outputs
from services.tf_serving.protocols.model_service import ModelService
from services.tf_serving.protocols.service import SIGNATURE_DEF, Service

P = ParamSpec("P")
R = TypeVar("R")

_VERSION = r"(?:/versions/([0-9]+)|/labels/([^/:]+))?"
_PREDICTION = re.compile(rf"/v1/models/([^/:]+){_VERSION}:(classify|regress|predict)", re.IGNORECASE)
_STATUS = re.compile(rf"/v1/models(?:/([^/:]+))?{_VERSION}(?:/(metadata))?", re.IGNORECASE)
_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
_MOST_VERSION = (1 << 63) - 1

_LARGE_BYTES = 64 * 1024
_LARGE_VALUES = 8 * 1024
"""JSON of more than that is read or written on a thread of its own: other calls go on meanwhile."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names. `method` is "predict", "classify" or "regress", "metadata", or "" for the status."""

    model: str
    method: str
    version: int | None = None
    label: str = ""


class Rest:
    """The handler of all paths."""

    def __init__(self, service: Service, model_service: ModelService) -> None:
        # These modules import TensorFlow, so they are imported when a service is made and not before.
        from google.protobuf import json_format
        from tensorflow.core.example import example_pb2
        from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

        self._service = service
        self._model_service = model_service
        self._json: Any = json_format
        self._example: Any = example_pb2.Example
        self._metadata: Any = get_model_metadata_pb2
        self._status: Any = get_model_status_pb2
        self._model_spec: Any = model_pb2.ModelSpec

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """One request to its answer.

        Raises:
            InvalidArgument: the path is none, or the body not what it must be.
            ServingError: as the calls of Service and ModelService.
        """
        target = parse_target(request.method, _path(request))
        return HttpResponse(200, await self._answer(target, request), "application/json")

    async def _answer(self, target: Target, request: HttpRequest) -> bytes:
        if request.method == "GET" and not target.model:
            raise InvalidArgument("Missing model name in request.")
        call = request.call()
        call.subject = target.model
        spec = self._model_spec(name=target.model)
        if target.version is not None:
            spec.version.value = target.version
        elif target.label:
            spec.version_label = target.label
        if target.method == "predict":
            return await self._predict(spec, request.body, call)
        if target.method == "metadata":
            return await self._model_metadata(spec, call)
        if not target.method:
            return await self._model_status(spec, call)
        document = await _aside(len(request.body) > _LARGE_BYTES, rest_json.parse, request.body)
        signature = rest_json.signature_name(document)
        examples = await _aside(len(request.body) > _LARGE_BYTES, rest_examples.read, document, self._example)
        servable = self._service.servables.find(spec)
        inference = self._service.inference
        if target.method == "classify":
            classified = await inference.classify(servable, signature, examples, call)
            return await _aside(len(examples) > _LARGE_VALUES, rest_outputs.classification, classified)
        regressed = await inference.regress(servable, signature, examples, call)
        return await _aside(len(examples) > _LARGE_VALUES, rest_outputs.regression, regressed)

    async def _predict(self, spec: Any, body: bytes, call: Call) -> bytes:
        large = len(body) > _LARGE_BYTES
        document = await _aside(large, rest_json.parse, body)
        name = rest_json.signature_name(document)
        servable = self._service.servables.find(spec)
        signature = servable.engine.signatures.get(name or DEFAULT_SIGNATURE)
        if signature is None:
            raise InvalidArgument(
                f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def'
            )
        if not signature.inputs:
            raise InvalidArgument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
        given = await _aside(large, rest_inputs.read, document, signature.inputs)
        plan = self._service.inference.plan(servable, name, given.tensors, ())
        results = await self._service.inference.run(plan, call)
        large = sum([result.size for result in results]) > _LARGE_VALUES
        return await _aside(large, _written, plan, results, given)

    async def _model_status(self, spec: Any, call: Call) -> bytes:
        request = self._status.GetModelStatusRequest(model_spec=spec)
        response = await self._model_service.get_model_status(call, request.SerializeToString())
        return self._text(self._status.GetModelStatusResponse.FromString(response)).encode()

    async def _model_metadata(self, spec: Any, call: Call) -> bytes:
        request = self._metadata.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF])
        answer = await self._service.get_model_metadata(call, request.SerializeToString())
        response = self._metadata.GetModelMetadataResponse.FromString(answer)
        signatures = self._metadata.SignatureDefMap.FromString(response.metadata[SIGNATURE_DEF].value)
        # Written in parts, for the whole has the signatures in an Any, of which JSON would have the type too.
        return (
            f'{{\n"model_spec":{self._text(response.model_spec)},\n'
            f'"metadata": {{"signature_def": {self._text(signatures)}}}\n}}\n'
        ).encode()

    def _text(self, message: Any) -> str:
        text: str = self._json.MessageToJson(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
        )
        return text


def routes(handler: HttpHandler) -> list[Route]:
    """All of them."""
    return [Route(method, "/v1/{rest...}", handler, fail) for method in _METHODS]


def fail(status: int, error: ServingError) -> HttpResponse:
    """An error as TensorFlow Serving writes it."""
    message = error.message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return HttpResponse(status, json.dumps({"error": message}).encode(), "application/json")


def subject(request: HttpRequest) -> tuple[str, str]:
    """The model that a request names, and its method as TensorFlow Serving's metrics name it; "" for what is not there
    or not named."""
    try:
        target = parse_target(request.method, _path(request))
    except InvalidArgument:
        return "", ""
    return target.model, "" if request.method == "GET" else target.method


def _path(request: HttpRequest) -> str:
    return request.raw_path or request.path


def parse_target(method: str, path: str) -> Target:
    """What a request is for; `path` as sent.

    Raises:
        InvalidArgument: nothing that is there.
    """
    found = (
        {"GET": _STATUS, "POST": _PREDICTION}[method].fullmatch(path) if method in ("GET", "POST") else None
    )
    if found is None:
        raise InvalidArgument(f"Malformed request: {method} {path}")
    name, version, label, verb = found.groups()
    if version and int(version) > _MOST_VERSION:
        raise InvalidArgument(f"Failed to convert version: {version} to numeric.")
    if method == "POST" and verb not in ("classify", "regress", "predict"):  # of another case
        raise InvalidArgument(f"Malformed request: {method} {path}")
    return Target(
        unquote(name or "", errors="replace"),
        (verb or "").lower(),
        int(version) if version else None,
        unquote(label or "", errors="replace"),
    )


def _written(plan: Plan, results: list[NDArray[Any]], given: rest_inputs.Given) -> bytes:
    outputs: dict[str, rest_outputs.Output] = {}
    for name, result in zip(plan.outputs, results, strict=True):
        if given.narrow and result.ndim == 2 and result.shape[1] == 1:
            result = result[:, 0]
        outputs[name] = (plan.signature.outputs[name].data_type, result)
    return rest_outputs.by_row(outputs) if given.by_row else rest_outputs.by_column(outputs)


async def _aside(large: bool, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """A function's answer, from a thread of its own where that takes long."""
    if large:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)
