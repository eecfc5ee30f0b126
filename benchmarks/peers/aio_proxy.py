"""The proxy that a user would write in Python: grpc.aio, bytes passed through.   aio_proxy.py PORT BACKEND_PORT ..."""

from __future__ import annotations

import asyncio
import itertools
import sys

import grpc


class PassThrough(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Forwards every unary call to the backends in turn."""

    def __init__(self, ports: list[int]) -> None:
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]
        self._channels = itertools.cycle(channels)
        self._calls: dict[tuple[int, str], grpc.aio.UnaryUnaryMultiCallable] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def forward(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            channel = next(self._channels)
            key = (id(channel), details.method)
            if key not in self._calls:
                self._calls[key] = channel.unary_unary(details.method)
            answer: bytes = await self._calls[key](request, timeout=context.time_remaining())
            return answer

        return grpc.unary_unary_rpc_method_handler(forward)


async def serve(port: int, backends: list[int]) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((PassThrough(backends),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), [int(argument) for argument in sys.argv[2:]]))
