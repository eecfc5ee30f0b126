"""Methods with streams against a scripted ASGI server."""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from libs.serving.asgi import GrpcApp
from libs.serving.call import Call
from libs.serving.errors import InvalidArgument
from libs.serving.frames import frame
from libs.serving.status import Code

METHOD = "/test.Test/Each"
LIMIT = 100


async def each(call: Call, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Echoes each message as it comes."""
    async for request in requests:
        if request == b"bad":
            raise InvalidArgument("bad")
        if request == b"defect":
            raise KeyError("a secret")
        yield bytes(request)


class Peer:
    """One call of a client that says what it sends and when; `receive` waits as a server's does for data."""

    def __init__(self, app: GrpcApp, path: str = METHOD, *headers: tuple[bytes, bytes]) -> None:
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._over = False
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *headers],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._over:
            return {"type": "http.request", "body": b"", "more_body": False}
        event = await self._events.get()
        self._over = not event.get("more_body")
        return event

    async def _send(self, event: Any) -> None:
        self.sent.put_nowait(event)

    def write(self, data: bytes, end: bool = False) -> None:
        self._events.put_nowait({"type": "http.request", "body": data, "more_body": not end})

    def leave(self) -> None:
        self._events.put_nowait({"type": "http.disconnect"})

    async def next(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.sent.get(), 10)

    async def answer(self) -> bytes:
        event = await self.next()
        while event["type"] == "http.response.start":
            event = await self.next()
        assert event["more_body"]
        return bytes(event["body"])

    async def outcome(self) -> tuple[int, str]:
        """gRPC code and message, once the call has ended."""
        await asyncio.wait_for(asyncio.shield(self.task), 10)
        fields: dict[bytes, bytes] = {}
        while not self.sent.empty():
            fields.update(self.sent.get_nowait().get("headers", ()))
        return int(fields[b"grpc-status"]), fields.get(b"grpc-message", b"").decode()


@pytest.fixture()
def app() -> GrpcApp:
    return GrpcApp({}, streams={METHOD: each}, max_message_bytes=LIMIT)


async def test_each_message_is_answered_before_the_next_is_sent(app: GrpcApp) -> None:
    peer = Peer(app)
    for message in (b"one", b"", b"three"):
        peer.write(frame(message))
        assert await peer.answer() == frame(message)
    peer.write(b"", end=True)
    assert await peer.outcome() == (Code.OK, "")


async def test_messages_in_pieces_and_several_at_a_time(app: GrpcApp) -> None:
    peer = Peer(app)
    data = frame(b"one") + frame(b"two") + frame(b"three")
    for at in range(0, len(data), 7):
        peer.write(data[at : at + 7], end=at + 7 >= len(data))
    assert [await peer.answer() for _ in range(3)] == [frame(b"one"), frame(b"two"), frame(b"three")]
    assert await peer.outcome() == (Code.OK, "")


async def test_compressed_messages(app: GrpcApp) -> None:
    packed = gzip.compress(b"hello")
    peer = Peer(app, METHOD, (b"grpc-encoding", b"gzip"))
    peer.write(struct.pack(">BI", 1, len(packed)) + packed, end=True)
    assert await peer.answer() == frame(b"hello")


async def test_no_requests_no_answers(app: GrpcApp) -> None:
    peer = Peer(app)
    peer.write(b"", end=True)
    assert await peer.outcome() == (Code.OK, "")


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (frame(b"one") + frame(b"bad"), Code.INVALID_ARGUMENT, "bad"),
        (frame(b"defect"), Code.INTERNAL, ""),
        (frame(b"one")[:-1], Code.INTERNAL, "the request ended 7 bytes into a message"),
        (struct.pack(">BI", 0, LIMIT + 1), Code.RESOURCE_EXHAUSTED, "too large"),
    ],
)
async def test_failures(app: GrpcApp, data: bytes, code: Code, text: str) -> None:
    peer = Peer(app)
    peer.write(data, end=True)
    got, message = await peer.outcome()
    assert got == code and text in message and "secret" not in message


async def test_an_unknown_method(app: GrpcApp) -> None:
    code, message = await Peer(app, "/test.Test/Nope").outcome()
    assert (code, message) == (Code.UNIMPLEMENTED, "unknown method /test.Test/Nope")


async def test_a_deadline_ends_a_stream_that_waits() -> None:
    async def forever(call: Call, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        async for request in requests:
            yield bytes(request)
        await asyncio.sleep(60)

    peer = Peer(GrpcApp({}, streams={METHOD: forever}), METHOD, (b"grpc-timeout", b"50m"))
    peer.write(frame(b"x"), end=True)
    assert (await peer.outcome())[0] == Code.DEADLINE_EXCEEDED


async def test_a_caller_who_leaves_ends_the_handler() -> None:
    ended = asyncio.Event()

    async def watched(call: Call, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        try:
            async for request in requests:
                yield bytes(request)
        finally:
            ended.set()

    peer = Peer(GrpcApp({}, streams={METHOD: watched}))
    peer.write(frame(b"x"))
    await peer.answer()
    peer.leave()
    await asyncio.wait_for(peer.task, 10)
    assert ended.is_set()


async def test_a_drain_tells_watchers_ends_streams_and_refuses_new_ones(app: GrpcApp) -> None:
    watcher, idle = Peer(app, "/grpc.health.v1.Health/Watch"), Peer(app)
    watcher.write(frame(b""), end=True)
    assert await watcher.answer() == frame(b"\x08\x02")
    idle.write(frame(b"x"))
    await idle.answer()
    app.drain()
    for peer in (watcher, idle):
        trailers = await peer.next()
        while trailers["type"] != "http.response.trailers":
            trailers = await peer.next()
        assert dict(trailers["headers"])[b"grpc-status"] == b"14"
    for peer in (watcher, idle):
        peer.leave()
    assert (await Peer(app).outcome())[0] == Code.UNAVAILABLE
    watcher.task.cancel()
