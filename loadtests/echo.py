"""A server that answers every call with its request, in a process of its own: what the generator can do at most."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

START_S = 30.0


async def _serve() -> None:
    async def echo(request: bytes, context: object) -> bytes:
        return request

    class Any(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: object) -> object:
            return grpc.unary_unary_rpc_method_handler(echo)

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Any(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"READY 127.0.0.1:{port}", flush=True)
    # Ends with whoever started it.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(1.0)


@contextmanager
def echo_server() -> Iterator[str]:
    """Its address, for as long as the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtests.echo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("READY "):
            raise RuntimeError("the echo server did not start")
        yield line.removeprefix("READY ").strip()
    finally:
        process.kill()
        process.wait(START_S)


if __name__ == "__main__":
    asyncio.run(_serve())
