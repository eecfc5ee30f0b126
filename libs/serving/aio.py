"""The same handlers on grpc.aio: the benchmark's baseline, and a way to serve where Envoy does not run.

What differs from `libs.serving.asgi`: grpc's own core speaks HTTP/2 and words the errors that it finds itself
(message too large, malformed frames); there is no plain HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]
import grpc.aio  # type: ignore[import-untyped,unused-ignore]

from libs.serving.asgi import DEFAULT_MAX_MESSAGE_BYTES, UNKNOWN_METHOD
from libs.serving.call import Call, Handler
from libs.serving.defects import defect
from libs.serving.errors import ServingError, Unimplemented
from libs.serving.headers import check_metadata
from libs.serving.health import SERVING, Health
from libs.serving.metrics import MethodStats, Metrics
from libs.serving.status import Code, grpc_code

_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


class AioServer:
    """A running server; made by `serve_aio`."""

    def __init__(self, server: Any, port: int, health: Health, metrics: Metrics) -> None:
        self._server = server
        self.port = port
        self.health = health
        self.metrics = metrics

    async def stop(self, drain_deadline_s: float) -> None:
        """Becomes NOT_SERVING, refuses new calls, and gives those in flight until the deadline to end."""
        self.health.drain()
        await self._server.stop(drain_deadline_s)

    async def wait(self) -> None:
        """Returns when the server has stopped."""
        await self._server.wait_for_termination()


async def serve_aio(
    handlers: Mapping[str, Handler],
    address: str,
    *,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    health: Health | None = None,
    metrics: Metrics | None = None,
) -> AioServer:
    """Starts a grpc.aio server on the running event loop.

    Args:
        handlers: by full method path, `/package.Service/Method`.
        address: `host:port`; port 0 takes a free one, told by `AioServer.port`.
        max_message_bytes: bound of a request message.
        health: as in `GrpcApp`; becomes SERVING unless the application manages it.
        metrics: counts calls as `GrpcApp` does; where to show them is up to the caller.

    Raises:
        RuntimeError: the address cannot be listened on.
    """
    health = health if health is not None else Health()
    metrics = metrics if metrics is not None else Metrics()
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    port = server.add_insecure_port(address)
    server.add_generic_rpc_handlers((_Methods({**health.handlers(), **handlers}, metrics),))
    await server.start()
    if not health.managed:
        health.set_status("", SERVING)
    return AioServer(server, port, health, metrics)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
    """Looks handlers up by method path."""

    def __init__(self, handlers: Mapping[str, Handler], metrics: Metrics) -> None:
        self._methods = {
            path: grpc.unary_unary_rpc_method_handler(_Unary(path, handler, metrics.method(path)).serve)
            for path, handler in handlers.items()
        }
        self._unknown = metrics.method(UNKNOWN_METHOD)

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        known = self._methods.get(path)
        if known is not None:
            return known
        return grpc.unary_unary_rpc_method_handler(_Unary(path, _unknown_method, self._unknown).serve)


class _Unary:
    """One method: a `Handler` in the shape that grpc.aio calls."""

    def __init__(self, path: str, handler: Handler, stats: MethodStats) -> None:
        self._path = path
        self._handler = handler
        self._stats = stats

    async def serve(self, request: bytes, context: Any) -> bytes:
        start = time.monotonic()
        remaining = context.time_remaining()
        deadline = None if remaining is None else start + remaining
        call = Call(self._path, _metadata(context), deadline, context.done)
        code: int = Code.CANCELLED
        try:
            response = await self._handler(call, request)
            if not isinstance(response, bytes):
                raise TypeError(f"the handler answered {type(response).__name__}, expected bytes")
            if call.response_metadata:
                await context.send_initial_metadata(check_metadata(call.response_metadata))
            code = Code.OK
            return response
        except ServingError as error:
            code = grpc_code(error)
            await context.abort(_GRPC_CODES[code], error.message)
            raise
        except asyncio.CancelledError:
            # grpc cancels the handler when the caller leaves or the deadline passes.
            if deadline is not None and deadline <= time.monotonic():
                code = Code.DEADLINE_EXCEEDED
            raise
        except Exception as error:
            code = Code.INTERNAL
            await context.abort(grpc.StatusCode.INTERNAL, defect(self._path, error).message)
            raise
        finally:
            self._stats.observe(code, time.monotonic() - start)


async def _unknown_method(call: Call, request: bytes) -> bytes:
    raise Unimplemented(f"unknown method {call.method}")


def _metadata(context: Any) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        text = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        values[key] = f"{values[key]},{text}" if key in values else text
    return values
