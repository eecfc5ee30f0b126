"""Asks an instance for its health as Envoy would: one gRPC call on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from services.gateway.health_probes import Answer, Target
from services.gateway.methods import HEALTH
from services.gateway.table import BackendTls

DEADLINE_S = 1.0

_SILENCE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_STATUS = (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)

Files = Callable[[], Mapping[Path, bytes]]


class Asker:
    """`files` gives the certificates and keys that pools name."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def ask(self, target: Target) -> Answer:
        """Never raises; an instance that does not answer within DEADLINE_S is silent."""
        options: list[tuple[str, Any]] = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if target.tls is None:
            channel = grpc.aio.insecure_channel(str(target.endpoint), options=options)
        else:
            if target.server_name:
                options.append(("grpc.ssl_target_name_override", target.server_name))
            channel = grpc.aio.secure_channel(str(target.endpoint), self._credentials(target.tls), options)
        try:
            call: Any = channel.unary_unary(
                f"/{HEALTH}/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            reply = await call(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            return Answer.SILENT if error.code() in _SILENCE else Answer.REFUSED
        finally:
            await channel.close()
        return Answer.STATUS if reply.status in _STATUS else Answer.REFUSED

    def _credentials(self, tls: BackendTls) -> grpc.ChannelCredentials:
        files = self._files()

        def data(path: Path | None) -> bytes | None:
            return None if path is None else files.get(path)

        return grpc.ssl_channel_credentials(data(tls.ca), data(tls.key), data(tls.cert))
