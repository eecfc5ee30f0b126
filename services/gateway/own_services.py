"""What the gateway answers itself on the public port: health, reflection, and KServe's server methods."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from libs.proto import messages
from libs.proto.services import WPAI_DESCRIPTOR
from services.gateway.methods import HEALTH, KSERVE, METHODS, REFLECTION, WPAI

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

# The health of a service by name: "" is the gateway, digits or a model's name are a task. None: there is no such one.
StatusOf = Callable[[str], Awaitable[bool | None]]

_WATCH_INTERVAL_S = 0.5
# Watches and reflection may last for as long as the caller likes. Envoy lets 1,024 calls to these services through: the
# rest is for health checks, which balancers live by.
MAX_STREAMS = 512

# Each service of the public port, once.
SERVICES = tuple(dict.fromkeys(method.path.split("/")[1] for method in METHODS))


def descriptor_pool() -> DescriptorPool:
    """A pool with the files of every service that the public port has, and all that they import."""
    pool, seen = DescriptorPool(), set[str]()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        pool.AddSerializedFile(file.serialized_pb)

    # The entry's file imports those of the backends' services.
    for file in (WPAI_DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        add(file)
    return pool


class OwnServices:
    """Registers the handlers on a grpc.aio server."""

    def __init__(self, status_of: StatusOf, version: str = "") -> None:
        self._status_of = status_of
        self._version = version
        self._streams = 0
        # The v1 protocol is v1alpha under another name: same messages, same numbers.
        self._reflection = ReflectionServicer(SERVICES, descriptor_pool())

    def register(self, server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    HEALTH,
                    {
                        "Check": grpc.unary_unary_rpc_method_handler(
                            self._check, health_pb2.HealthCheckRequest.FromString, _serialize
                        ),
                        "Watch": grpc.unary_stream_rpc_method_handler(
                            self._watch, health_pb2.HealthCheckRequest.FromString, _serialize
                        ),
                    },
                ),
                grpc.method_handlers_generic_handler(
                    KSERVE,
                    {
                        "ServerLive": _kserve(messages.ServerLiveRequest, self._live),
                        "ServerReady": _kserve(messages.ServerReadyRequest, self._ready),
                        "ServerMetadata": _kserve(messages.ServerMetadataRequest, self._metadata),
                    },
                ),
                *[
                    grpc.method_handlers_generic_handler(
                        service,
                        {
                            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                                self._reflect,
                                reflection_pb2.ServerReflectionRequest.FromString,
                                _serialize,
                            ),
                        },
                    )
                    for service in REFLECTION
                ],
            ]
        )

    async def _check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        status = await self._health(request.service)
        if status == SERVICE_UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"no service {request.service!r}: ask for '' (the gateway), '{WPAI}', a task id or a model's name",
            )
        return health_pb2.HealthCheckResponse(status=status)

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last = None
        async with self._streaming(context):
            while True:  # until the caller cancels or the server stops
                status = await self._health(request.service)
                if status != last:
                    last = status
                    yield health_pb2.HealthCheckResponse(status=status)
                await asyncio.sleep(_WATCH_INTERVAL_S)

    async def _reflect(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        async with self._streaming(context):
            async for reply in self._reflection.ServerReflectionInfo(requests, context):
                yield reply

    @contextlib.asynccontextmanager
    async def _streaming(self, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        if self._streams >= MAX_STREAMS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{MAX_STREAMS} callers watch health or use reflection already: ask Health/Check from time to time",
            )
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def _health(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        serving = await self._status_of("" if service in SERVICES else service)
        if serving is None:
            return SERVICE_UNKNOWN
        return SERVING if serving else NOT_SERVING

    async def _live(self, request: object, context: object) -> messages.ServerLiveResponse:
        return messages.ServerLiveResponse(live=True)

    async def _ready(self, request: object, context: object) -> messages.ServerReadyResponse:
        return messages.ServerReadyResponse(ready=bool(await self._status_of("")))

    async def _metadata(self, request: object, context: object) -> messages.ServerMetadataResponse:
        return messages.ServerMetadataResponse(name="dl_inference gateway", version=self._version)


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _kserve(request: Any, answer: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(answer, request.FromString, _serialize)
