"""gRPC methods with streams, apart from the unary hot path: reflection, and watching health.

A stream handler is an async generator from a `Call` and the request messages to the response messages. It fails by
raising a `ServingError`. Its callers are few and its messages small: nothing here holds a fast writer back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing

from libs.serving.call import Call
from libs.serving.defects import defect
from libs.serving.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    ServingError,
    Unavailable,
    Unimplemented,
)
from libs.serving.frames import ACCEPT_ENCODING, HEADER_BYTES, expected_bytes, frame, unframe
from libs.serving.headers import Metadata
from libs.serving.inflight import InFlight, LiveCall
from libs.serving.metrics import MethodStats
from libs.serving.plain_http import Event, Receive, Scope, Send
from libs.serving.status import Code, encode_message, grpc_code, parse_timeout

StreamHandler = Callable[[Call, AsyncIterator[bytes]], AsyncGenerator[bytes, None]]
"""Serves one method with streams."""

# Each open stream holds a task and a place in Envoy; whoever reflects or watches needs one.
MAX_STREAMS = 256
# From the news that the server drains, which watchers are to hear, to the end of their streams.
_END_AFTER_S = 0.1
_CONTENT_TYPE = (b"content-type", b"application/grpc")


class Streams:
    """The methods with streams of one server, and the streams that are open.

    Args:
        handlers: by method path, with what counts its calls.
        unknown: counts calls of paths that nothing serves.
        max_message_bytes: bound of a request message.
        clock: of deadlines.
    """

    def __init__(
        self,
        handlers: Mapping[str, tuple[StreamHandler, MethodStats]],
        unknown: MethodStats,
        max_message_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handlers = handlers
        self._unknown = (None, unknown)
        self._max_message_bytes = max_message_bytes
        self._clock = clock
        self._in_flight = InFlight(clock)
        self._open: set[_Answers] = set()
        self._draining = False

    async def serve(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        """Serve one call, of a method that is known or not."""
        path, start = scope["path"], self._clock()
        handler, stats = self._handlers.get(path, self._unknown)
        live = LiveCall(asyncio.current_task(), receive, start)
        answers = _Answers(send)
        failure: ServingError | None = None
        try:
            timeout = headers.get(b"grpc-timeout")
            if timeout is not None:
                live.deadline = start + _timeout(timeout)
            if handler is None:
                raise Unimplemented(f"unknown method {path}")
            if self._draining:
                raise _draining()
            if len(self._open) >= MAX_STREAMS:
                raise ResourceExhausted(f"{MAX_STREAMS} streams are open, the most there can be")
            self._open.add(answers)
            self._in_flight.add(live, asyncio.get_running_loop())
            call = Call(path, Metadata(scope["headers"]), live.deadline, live.cancelled)
            requests = _messages(receive, live, headers.get(b"grpc-encoding"), self._max_message_bytes)
            async with aclosing(handler(call, requests)) as messages:
                async for message in messages:
                    await answers.send(message)
        except ServingError as error:
            failure = error
        except OSError:  # what ASGI servers raise when the caller has gone
            live.gone = True
        except asyncio.CancelledError:
            if not live.expired and not live.gone:  # the server is being stopped
                raise
        except Exception as error:
            failure = defect(path, error)
        finally:
            self._open.discard(answers)
            self._in_flight.remove(live)
        if live.expired:
            failure = DeadlineExceeded("the deadline passed before the stream ended")
        code = Code.CANCELLED if live.gone and not answers.ended else await answers.end(failure)
        stats.observe(code, self._clock() - start)

    def drain(self) -> None:
        """End what is open, soon, and refuse what comes."""
        if not self._draining:
            self._draining = True
            loop = asyncio.get_running_loop()
            loop.call_later(_END_AFTER_S, lambda: loop.create_task(self._end_all()))

    async def _end_all(self) -> None:
        # Their tasks may wait in `receive`, which must not be cancelled; the end of the stream wakes them.
        for answers in list(self._open):
            await answers.end(_draining())


class _Answers:
    """The response side of one call."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self._code = Code.OK
        self.ended = False

    async def send(self, message: bytes) -> None:
        """Send one message, unless the stream has ended."""
        if self.ended:
            return
        await self._start()
        await self._send({"type": "http.response.body", "body": frame(message), "more_body": True})

    async def end(self, failure: ServingError | None) -> Code:
        """End the stream with the status of a failure, or OK; says with which it ended, now or before."""
        if self.ended:
            return self._code
        self.ended = True
        status: list[tuple[bytes, bytes]] = [(b"grpc-status", b"0")]
        if failure is not None:
            self._code = grpc_code(failure)
            status = [
                (b"grpc-status", b"%d" % self._code),
                (b"grpc-message", encode_message(failure.message)),
            ]
            if self._code is Code.UNIMPLEMENTED:
                status.append((b"grpc-accept-encoding", ACCEPT_ENCODING))
        try:
            if failure is not None and not self._started:
                await self._send(_start([_CONTENT_TYPE, *status]))
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await self._start()
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                await self._send({"type": "http.response.trailers", "headers": status})
        except OSError:  # what ASGI servers raise when the caller has gone
            self._code = Code.CANCELLED
        return self._code

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send({**_start([_CONTENT_TYPE]), "trailers": True})


async def _messages(
    receive: Receive, live: LiveCall, encoding: bytes | None, max_bytes: int
) -> AsyncGenerator[bytes, None]:
    """The request's messages as they come."""
    buffer = b""
    while True:
        event = await receive()
        if event["type"] != "http.request":
            live.gone = True
            raise Cancelled("the caller went away")
        buffer += event.get("body", b"")
        while len(buffer) >= HEADER_BYTES:
            size = expected_bytes(buffer, max_bytes)
            if len(buffer) < size:
                break
            message, buffer = buffer[:size], buffer[size:]
            yield unframe(message, encoding, max_bytes)
        if not event.get("more_body"):
            break
    live.reading = False
    if buffer:
        raise Internal(f"the request ended {len(buffer)} bytes into a message")


def _start(headers: list[tuple[bytes, bytes]]) -> Event:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _draining() -> ServingError:
    return Unavailable("the server is draining")


def _timeout(value: bytes) -> float:
    try:
        return parse_timeout(value)
    except ValueError as error:
        raise Internal(str(error)) from None
