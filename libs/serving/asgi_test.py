"""GrpcApp against a scripted ASGI server: what a well-behaved client never sends, and what a server may
do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from libs.serving.asgi import GrpcApp
from libs.serving.call import Call
from libs.serving.errors import FailedPrecondition, InvalidArgument
from libs.serving.frames import frame
from libs.serving.health import NOT_SERVING, SERVING, Health
from libs.serving.status import Code

HEADERS = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
DISCONNECT = {"type": "http.disconnect"}
LIMIT = 1000


class FakeServer:
    """Feeds an application from a script and keeps what it sends.

    After the script `receive` behaves as pyvoy's: an empty `http.request` at once, `http.disconnect` once
    `gone`.
    """

    def __init__(self, app: GrpcApp, *chunks: bytes, end: bool = True) -> None:
        self.app = app
        self.events: list[dict[str, Any]] = [
            {"type": "http.request", "body": chunk, "more_body": not end or index < len(chunks) - 1}
            for index, chunk in enumerate(chunks)
        ]
        self.sent: list[dict[str, Any]] = []
        self.received = 0
        self.polls = 0
        self.gone = False

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.events:
            self.received += 1
            return self.events.pop(0)
        self.polls += 1
        return dict(DISCONNECT) if self.gone else {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, event: Any) -> None:
        if self.gone:
            raise OSError("the client has disconnected")
        self.sent.append(event)

    async def call(
        self,
        path: str = "/test.Test/Echo",
        headers: list[tuple[bytes, bytes]] | None = None,
        method: str = "POST",
    ) -> FakeServer:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": HEADERS if headers is None else headers,
        }
        await asyncio.wait_for(self.app(scope, self.receive, self.send), 10)
        return self

    @property
    def fields(self) -> dict[str, str]:
        """Header fields and trailers of the answer."""
        return {
            name.decode(): value.decode() for event in self.sent for name, value in event.get("headers", ())
        }

    @property
    def outcome(self) -> tuple[int, str]:
        """gRPC code and message."""
        return int(self.fields["grpc-status"]), unquote_to_bytes(self.fields.get("grpc-message", "")).decode()


async def _echo(call: Call, request: bytes) -> bytes:
    return request


def _app(handler: Callable[[Call, bytes], Awaitable[bytes]] = _echo, **options: Any) -> GrpcApp:
    return GrpcApp({"/test.Test/Echo": handler}, max_message_bytes=LIMIT, **options)


async def test_a_success_is_headers_a_message_and_trailers() -> None:
    server = await FakeServer(_app(), frame(b"hello")).call()
    assert server.sent == [
        {"type": "http.response.start", "status": 200, "headers": [HEADERS[0]], "trailers": True},
        {"type": "http.response.body", "body": frame(b"hello")},
        {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]},
    ]


async def test_an_error_is_trailers_only() -> None:
    async def fail(call: Call, request: bytes) -> bytes:
        call.response_metadata["X-Hint"] = "try 72 characters"
        raise InvalidArgument("wrong length: 71 %")

    server = await FakeServer(_app(fail), frame(b"")).call()
    assert [event["type"] for event in server.sent] == ["http.response.start", "http.response.body"]
    assert not server.sent[0].get("trailers")
    assert not server.sent[1]["body"]
    assert server.outcome == (Code.INVALID_ARGUMENT, "wrong length: 71 %")
    assert server.fields["x-hint"] == "try 72 characters"


@pytest.mark.parametrize("size", [1, 2, 5, 7])
async def test_a_body_in_pieces(size: int) -> None:
    body = frame(b"0123456789")
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    server = await FakeServer(_app(), *chunks, b"").call()
    assert server.sent[1]["body"] == body
    assert server.outcome == (0, "")


@pytest.mark.parametrize(
    "chunks,headers,code,match",
    [
        ([b""], [], Code.INTERNAL, "no message"),
        ([b"\x00\x00"], [], Code.INTERNAL, "expected at least a header"),
        ([b"\x00\x00\x00", b"\x00\x09abc"], [], Code.INTERNAL, "announces 9 bytes"),
        ([frame(b"a") + frame(b"b")], [], Code.INTERNAL, "exactly one"),
        (
            [b"\x01\x00\x00\x00\x01a"],
            [(b"grpc-encoding", b"br")],
            Code.UNIMPLEMENTED,
            "'br' is not supported",
        ),
        ([frame(b"a")], [(b"grpc-timeout", b"soon")], Code.INTERNAL, "grpc-timeout b'soon'"),
        ([frame(b"a")], [(b"grpc-timeout", b"0n")], Code.DEADLINE_EXCEEDED, "deadline passed"),
    ],
)
async def test_what_is_said_of_a_bad_request(
    chunks: list[bytes], headers: list[tuple[bytes, bytes]], code: Code, match: str
) -> None:
    server = await FakeServer(_app(), *chunks).call(headers=HEADERS + headers)
    assert server.outcome[0] == code
    assert match in server.outcome[1]
    assert ("grpc-accept-encoding" in server.fields) == (code is Code.UNIMPLEMENTED)


async def test_reading_stops_at_what_can_only_be_refused() -> None:
    server = FakeServer(_app(), b"\x00\x00\x01", b"\x00\x00" + bytes(100), *[bytes(100)] * 50)
    assert (await server.call()).outcome[0] == Code.RESOURCE_EXHAUSTED
    assert server.received == 2
    server = FakeServer(_app(), frame(b"first"), *[frame(b"second")] * 50)
    assert (await server.call()).outcome[0] == Code.INTERNAL
    assert server.received == 2
    server = FakeServer(_app(), *[frame(b"x")] * 50)
    assert (await server.call("/test.Test/Nope")).outcome == (
        Code.UNIMPLEMENTED,
        "unknown method /test.Test/Nope",
    )
    assert server.received == 0


async def test_a_caller_who_leaves_while_sending() -> None:
    ran = False

    async def handler(call: Call, request: bytes) -> bytes:
        nonlocal ran
        ran = True
        return b""

    server = FakeServer(_app(handler), b"\x00\x00\x00\x00\x09abc", end=False)
    server.gone = True
    await server.call()
    assert not ran
    assert server.sent == []
    assert server.app.in_flight == 0


async def test_a_caller_who_leaves_cancels_the_handler() -> None:
    calls: list[Call] = []
    cancelled = False

    async def handler(call: Call, request: bytes) -> bytes:
        nonlocal cancelled
        calls.append(call)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled = True
            raise
        return b""

    server = FakeServer(_app(handler), frame(b""))
    task = asyncio.create_task(server.call())
    await asyncio.sleep(0.05)
    assert not calls[0].cancelled()
    server.gone = True
    await task
    assert cancelled
    assert calls[0].cancelled()
    assert server.sent == []


async def test_polls_for_the_callers_absence_grow_rare() -> None:
    async def handler(call: Call, request: bytes) -> bytes:
        await asyncio.sleep(float(request))
        return b""

    quick = FakeServer(_app(handler), frame(b"0.001"))
    await quick.call()
    await asyncio.sleep(0.03)
    assert quick.polls == 0
    slow = FakeServer(_app(handler), frame(b"0.7"))
    await slow.call()
    assert 2 <= slow.polls <= 7
    assert slow.outcome[0] == 0


async def test_a_server_that_holds_receive_until_the_caller_leaves() -> None:
    """What other ASGI servers do after the body."""
    left = asyncio.Event()
    server = FakeServer(_app(lambda call, request: _sleep(30)), frame(b""))
    script = server.receive

    async def receive() -> dict[str, Any]:
        if server.events:
            return await script()
        await left.wait()
        return dict(DISCONNECT)

    server.receive = receive  # type: ignore[method-assign]
    task = asyncio.create_task(server.call())
    await asyncio.sleep(0.1)
    assert not task.done()
    left.set()
    await task
    assert server.sent == []


async def _sleep(seconds: float) -> bytes:
    await asyncio.sleep(seconds)
    return b""


async def test_the_deadline_ends_the_handler_in_time_and_not_before() -> None:
    server = FakeServer(_app(lambda call, request: _sleep(30)), frame(b""))
    begin = time.monotonic()
    await server.call(headers=[*HEADERS, (b"grpc-timeout", b"80m")])
    assert 0.08 <= time.monotonic() - begin < 2
    assert server.outcome[0] == Code.DEADLINE_EXCEEDED


async def test_deadlines_of_any_order() -> None:
    app = _app(lambda call, request: _sleep(float(request)))

    async def one(timeout_ms: int, work: bytes) -> tuple[int, float]:
        begin = time.monotonic()
        server = await FakeServer(app, frame(work)).call(
            headers=[*HEADERS, (b"grpc-timeout", b"%dm" % timeout_ms)]
        )
        return server.outcome[0], time.monotonic() - begin

    timeouts = [300, 100, 200, 50, 250, 150]
    late = [one(timeout, b"30") for timeout in timeouts]
    early = [one(1000, b"0.01") for _ in range(20)]
    results = await asyncio.gather(*late, *early)
    for timeout, (code, took) in zip(timeouts, results, strict=False):
        assert code == Code.DEADLINE_EXCEEDED
        assert timeout / 1e3 <= took < timeout / 1e3 + 1.5
    assert [code for code, _ in results[6:]] == [0] * 20
    assert app.in_flight == 0


async def test_a_slow_sender_is_late_too() -> None:
    server = FakeServer(_app(), b"\x00\x00\x00\x00\x03a", b"b", b"c", end=True)
    script = server.receive

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.04)
        return await script()

    server.receive = receive  # type: ignore[method-assign]
    await server.call(headers=[*HEADERS, (b"grpc-timeout", b"60m")])
    assert server.outcome[0] == Code.DEADLINE_EXCEEDED


async def test_stopping_the_server_is_passed_on() -> None:
    server = FakeServer(_app(lambda call, request: _sleep(30)), frame(b""))
    task = asyncio.create_task(server.call())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.app.in_flight == 0


async def test_a_caller_who_leaves_during_the_answer_is_no_error() -> None:
    async def handler(call: Call, request: bytes) -> bytes:
        server.gone = True
        return b"too late"

    server = FakeServer(_app(handler), frame(b""))
    await server.call()
    assert server.app.in_flight == 0


@pytest.mark.parametrize(
    "content_type,status",
    [
        (b"application/grpc", 200),
        (b"application/grpc+proto", 200),
        (b"application/grpc;charset=utf-8", 200),
        (b"application/grpc-web", 415),
        (b"application/json", 415),
    ],
)
async def test_content_types(content_type: bytes, status: int) -> None:
    server = await FakeServer(_app(), frame(b"")).call(headers=[(b"content-type", content_type)])
    assert server.sent[0]["status"] == status


@pytest.mark.parametrize(
    "name,value",
    [("grpc-status", "0"), ("content-type", "x"), ("a b", "x"), ("x", "é"), ("x", "a\nb"), (":path", "/")],
)
async def test_metadata_that_may_not_be_sent(name: str, value: str) -> None:
    async def handler(call: Call, request: bytes) -> bytes:
        call.response_metadata[name] = value
        return b""

    server = await FakeServer(_app(handler), frame(b"")).call()
    assert server.outcome[0] == Code.INTERNAL


async def _lifespan(app: GrpcApp) -> tuple[list[dict[str, Any]], asyncio.Event, asyncio.Task[None]]:
    sent: list[dict[str, Any]] = []
    stop = asyncio.Event()
    events = iter(("lifespan.startup", "lifespan.shutdown"))

    async def receive() -> dict[str, Any]:
        event = next(events)
        if event == "lifespan.shutdown":
            await stop.wait()
        return {"type": event}

    async def send(event: Any) -> None:
        sent.append(event)

    task = asyncio.create_task(app({"type": "lifespan"}, receive, send))
    await asyncio.sleep(0.01)
    return sent, stop, task


async def test_startup_makes_the_server_ready_and_shutdown_ends_that() -> None:
    order: list[str] = []

    async def startup() -> None:
        order.append(f"startup {app.health.serving}")

    async def shutdown() -> None:
        order.append(f"shutdown {app.health.serving}")

    app = _app(on_startup=startup, on_shutdown=shutdown)
    sent, stop, task = await _lifespan(app)
    assert app.health.serving
    stop.set()
    await task
    assert order == ["startup False", "shutdown False"]
    assert [event["type"] for event in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_an_application_that_manages_its_health_is_left_alone() -> None:
    health = Health()
    health.set_status("", NOT_SERVING)
    app = _app(health=health)
    _, stop, task = await _lifespan(app)
    assert not health.serving
    health.set_status("", SERVING)
    assert health.serving
    stop.set()
    await task


@pytest.mark.parametrize(
    "error,message", [(FailedPrecondition("no model.pth"), "no model.pth"), (KeyError("x"), "KeyError: 'x'")]
)
async def test_a_failed_startup_is_told(error: Exception, message: str) -> None:
    async def startup() -> None:
        raise error

    app = _app(on_startup=startup)
    sent, _, task = await _lifespan(app)
    await task
    assert sent == [{"type": "lifespan.startup.failed", "message": message}]
    assert not app.health.serving


async def test_a_failed_shutdown_is_told() -> None:
    async def shutdown() -> None:
        raise OSError("device busy")

    sent, stop, task = await _lifespan(_app(on_shutdown=shutdown))
    stop.set()
    await task
    assert sent[-1] == {"type": "lifespan.shutdown.failed", "message": "device busy"}
