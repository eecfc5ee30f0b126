from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.gateway.admin import AdminServer, Page, Request, html_page, text_page


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    async def echo(request: Request) -> Page:
        return text_page(200, repr(sorted(request.query.items())))

    async def long(request: Request) -> Page:
        return html_page("long " * 5000)

    async def broken(request: Request) -> Page:
        raise RuntimeError("as it should")

    listening = socket.create_server(("127.0.0.1", 0))
    admin = AdminServer({"/echo": echo, "/long": long, "/broken": broken})
    await admin.start(listening)
    try:
        yield listening.getsockname()[1]
    finally:
        admin.close()


async def ask(port: int, head: str) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode("latin-1"))
        raw = await reader.read(-1)
        writer.close()
    first, _, rest = raw.partition(b"\r\n")
    fields, _, body = rest.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in fields.decode().lower().split("\r\n"))
    return int(first.split()[1]), headers, body


async def get(port: int, target: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
    return await ask(port, "\r\n".join((f"GET {target} HTTP/1.1", *headers, "", "")))


async def test_pages_are_served_by_path_with_their_query() -> None:
    async with server() as port:
        status, headers, body = await get(port, "/echo?q=a%20b&all=1&empty=")
        assert (status, body) == (200, b"[('all', '1'), ('q', 'a b')]\n")
        assert int(headers["content-length"]) == len(body)
        assert headers["x-content-type-options"] == "nosniff"
        status, _, body = await get(port, "/other")
        assert status == 404
        assert b"/echo" in body


async def test_large_pages_are_packed_for_who_accepts_it() -> None:
    async with server() as port:
        _, plain_headers, plain = await get(port, "/long")
        _, headers, packed = await get(port, "/long", "accept-encoding: br, GZIP")
        assert "content-encoding" not in plain_headers
        assert headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed) == plain
        assert len(packed) < len(plain) / 10


async def test_what_is_no_proper_request_is_answered_or_dropped() -> None:
    async with server() as port:
        assert (await ask(port, "nonsense\r\n\r\n"))[0] == 400
        assert (await ask(port, "POST /echo HTTP/1.1\r\n\r\n"))[0] == 405
        assert (await get(port, "/echo?" + "&".join(f"a{n}=1" for n in range(100))))[0] == 400
        assert (await ask(port, "GET /broken HTTP/1.1\r\n\r\n"))[0] == 500
        assert (await get(port, "/echo"))[0] == 200


async def test_a_connection_that_says_nothing_is_no_error_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with server() as port:
        before = asyncio.all_tasks()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        while not (serving := asyncio.all_tasks() - before):
            await asyncio.sleep(0.01)
        for task in serving:
            task.cancel()
        await asyncio.wait(serving)
        await asyncio.sleep(0.01)
        writer.close()
    assert caplog.text == ""
