"""A TCP proxy that holds everything back for a while: a slow network, or a build that has become slower."""

from __future__ import annotations

import argparse
import asyncio


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Copies until the end, each piece that much later than it came."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)

    async def deliver() -> None:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    delivering = asyncio.create_task(deliver())
    try:
        while data := await reader.read(65536):
            await pieces.put((loop.time() + delay_s, data))
    except OSError:
        pass
    await pieces.put((loop.time() + delay_s, b""))
    await asyncio.gather(delivering, return_exceptions=True)


async def serve(target: str, delay_s: float) -> None:
    """Listens on a free port, says which, and serves until it is ended."""
    host, _, port = target.rpartition(":")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, back, delay_s), _pump(there, writer, 0.0))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(f"READY 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="delay", description=__doc__)
    parser.add_argument("target", help="host:port")
    parser.add_argument("--ms", type=float, required=True, help="how long requests are held back")
    options = parser.parse_args()
    asyncio.run(serve(options.target, options.ms / 1e3))


if __name__ == "__main__":
    main()
