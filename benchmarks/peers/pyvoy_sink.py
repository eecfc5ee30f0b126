"""The cost of receiving alone: an ASGI application in pyvoy that reads each gRPC call and answers with an empty
message. Runs in the worker's environment.   pyvoy_sink.py PORT"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/grpc")]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    await send({"type": "http.response.body", "body": bytes(5)})
    await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})


async def serve(port: int) -> None:
    from pyvoy import PyvoyServer

    async with PyvoyServer("pyvoy_sink:app", port=port) as server:
        await server.wait()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    asyncio.run(serve(int(sys.argv[1])))
