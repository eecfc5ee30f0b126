"""gRPC, and a little plain HTTP, as an ASGI application.

`GrpcApp` is the adapter between a transport-neutral `Handler` and an ASGI server that speaks HTTP/2 with
trailers. It is written for pyvoy and uses nothing but ASGI and its `http.response.trailers` extension.
Protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.

Unary calls mostly do not come here: where Envoy has the filter of `direct`, the event loop gets them whole.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from libs.serving.call import Call, Handler, HttpHandler, Route
from libs.serving.control import Control, configure_logging, tune_process
from libs.serving.direct.calls import DirectCalls
from libs.serving.direct.module import LIBRARY_VARIABLE
from libs.serving.errors import DeadlineExceeded, ServingError
from libs.serving.frames import HEADER_BYTES, expected_bytes, frame, trailing_bytes, unframe
from libs.serving.headers import Field, Metadata
from libs.serving.health import SERVING, Health
from libs.serving.inflight import LiveCall
from libs.serving.load_report import INTERVAL_S, Sample
from libs.serving.metrics import Metrics
from libs.serving.plain_http import (
    DEFAULT_TIMEOUT_S,
    Event,
    PlainHttp,
    Receive,
    Scope,
    Send,
    plain_failure,
)
from libs.serving.reflection import Descriptors, Reflection
from libs.serving.status import Code, grpc_code
from libs.serving.streams import StreamHandler, Streams
from libs.serving.unary import OK_TRAILER, Unary, error_fields, gone, ok_fields, timeout_s

Hook = Callable[[], Awaitable[None]]

DEFAULT_MAX_MESSAGE_BYTES = 10 << 20
HELD_MESSAGES = 100
"""Of the largest size: what requests in flight may hold together unless told otherwise."""
UNKNOWN_METHOD = "/unknown/unknown"
"""What metrics count calls of unknown methods under."""

log = logging.getLogger(__name__)

_NO_BODY: Event = {"type": "http.response.body", "body": b"", "more_body": False}

# What may follow "application/grpc" in the content-type: nothing, a message format, or a parameter; grpc-web
# is another protocol.
_AFTER_TYPE = (b"", b"+", b";")


class GrpcApp:
    """ASGI application serving unary gRPC methods, health, metrics and plain HTTP handlers.

    Args:
        handlers: by full method path, `/package.Service/Method`.
        http: by (HTTP method, path).
        streams: handlers of methods with streams, by full method path.
        reflection: describes the services for grpcurl and its like; None: not offered.
        routes: more of plain HTTP, with patterns for paths and with errors of their own form.
        http_timeout_s: bound of a plain HTTP request's time.
        max_message_bytes: bound of a request message, as sent and as decompressed, and of an HTTP body.
        max_held_bytes: bound of the memory of all unary requests in flight; None: of a hundred of the largest.
        on_startup: awaited before the server listens. If it raises, the server does not start; the text of a
            `ServingError`, `ValueError` or `OSError` is what the operator reads.
        on_shutdown: awaited after the last call, before the process ends.
        health: the server's health; made here if not given. Its handlers are added unless `handlers` has
            them. The whole server becomes SERVING after `on_startup`, unless the application sets that status
            itself.
        metrics: made here if not given; `/metrics` is added unless `http` has it.
        load: makes the load report that answers carry; None for none. Asked a few times a second while serving.
        clock: of deadlines and durations; the default's is the one of `Call.deadline`.
    """

    _asgi_single_callable = True  # tells pyvoy not to probe for an ASGI 2 application

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        http: Mapping[tuple[str, str], HttpHandler] | None = None,
        *,
        streams: Mapping[str, StreamHandler] | None = None,
        reflection: Descriptors | None = None,
        routes: Sequence[Route] = (),
        http_timeout_s: float = DEFAULT_TIMEOUT_S,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        max_held_bytes: int | None = None,
        on_startup: Hook | None = None,
        on_shutdown: Hook | None = None,
        health: Health | None = None,
        metrics: Metrics | None = None,
        load: Sample | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.health = health if health is not None else Health()
        self.metrics = metrics if metrics is not None else Metrics()
        self._unary_calls = Unary(
            {**self.health.handlers(), **handlers}, self.metrics, max_message_bytes, clock
        )
        # Paths that callers make up must not become a time series each.
        self._unknown = (None, self.metrics.method(UNKNOWN_METHOD))
        plain: dict[tuple[str, str], HttpHandler] = {
            ("GET", "/metrics"): self.metrics.handle,
            **self.health.http(),
            **(http or {}),
        }
        served = [Route(method, path, handler, plain_failure) for (method, path), handler in plain.items()]
        streaming = {**self.health.streams(), **(streams or {})}
        if reflection is not None:
            names = {path.split("/")[1] for path in (*self._unary_calls.methods, *streaming)}
            streaming.update(Reflection(reflection, names).streams())
        self._streams = Streams(
            {path: (handler, self.metrics.method(path)) for path, handler in streaming.items()},
            self._unknown[1],
            max_message_bytes,
            clock,
        )
        self._http = PlainHttp(
            [*served, *routes], self._unary_calls.methods, max_message_bytes, http_timeout_s, clock
        )
        self._on_startup = on_startup
        self._on_shutdown = on_shutdown
        self._clock = clock
        self._load = load
        self._direct: DirectCalls | None = None
        self._max_held_bytes = max_held_bytes or HELD_MESSAGES * max_message_bytes
        self.metrics.in_flight = self._unary_calls.in_flight.__len__

    @property
    def in_flight(self) -> int:
        """gRPC calls being served now."""
        return len(self._unary_calls.in_flight)

    @property
    def held(self) -> int:
        """Calls that there is memory of; all are freed once they are over."""
        return max(self.in_flight, self._direct.held if self._direct is not None else 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._lifespan(receive, send)
            return
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"")
        if scope["method"] == "POST" and kind[:16] == b"application/grpc" and kind[16:17] in _AFTER_TYPE:
            await self._unary(scope, headers, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _unary(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        """Serves a gRPC call with streams, one of an unknown method, and any that the exchange did not take."""
        clock = self._clock
        start = clock()
        path = scope["path"]
        unary = self._unary_calls
        handler, stats = unary.methods.get(path, self._unknown)
        if handler is None:
            await self._streams.serve(scope, headers, receive, send)
            return
        loop = asyncio.get_running_loop()
        live = LiveCall(asyncio.current_task(loop), receive, start)
        call = Call(path, Metadata(scope["headers"]), None, live.cancelled)
        answer = b""
        failure: ServingError | None = None
        try:
            timeout = headers.get(b"grpc-timeout")
            if timeout is not None:
                live.deadline = call.deadline = start + timeout_s(timeout)
            unary.in_flight.add(live, loop)
            event = await receive()
            data = event.get("body", b"")
            if event.get("more_body") or event["type"] != "http.request":
                data = await self._rest(event, receive, live)
            message = unframe(data, headers.get(b"grpc-encoding"), unary.max_message_bytes)
        except ServingError as error:
            failure = error
        else:
            answer, failure = await unary.handle(handler, call, live, message)
        unary.in_flight.remove(live)
        code = 0
        try:
            if failure is None:
                await send(_start(ok_fields(call.response_metadata), trailers=True))
                await send({"type": "http.response.body", "body": frame(answer)})
                await send({"type": "http.response.trailers", "headers": list(unary.trailers)})
            else:
                code = grpc_code(failure)
                if not live.gone:
                    await send(_start(error_fields(code, failure, call.response_metadata)))
                    await send(_NO_BODY)
        except OSError:  # what ASGI servers raise when the caller has gone
            code = Code.CANCELLED
        stats.observe(code, clock() - start)

    async def _rest(self, event: Event, receive: Receive, live: LiveCall) -> bytes:
        """Reads on until the body is complete, and no further than one message within the limit."""
        chunks: list[bytes] = []
        size = 0
        expected: int | None = None
        while True:
            if event["type"] != "http.request":
                live.gone = True
                raise gone()
            if chunk := event.get("body", b""):
                chunks.append(chunk)
                size += len(chunk)
            if expected is None and size >= HEADER_BYTES:
                chunks = [b"".join(chunks)]
                expected = expected_bytes(chunks[0], self._unary_calls.max_message_bytes)
            if expected is not None and size > expected:
                raise trailing_bytes(size - expected)
            if not event.get("more_body"):
                return b"".join(chunks)
            if live.expired:
                raise DeadlineExceeded("the deadline passed while the request was received")
            event = await receive()

    def drain(self) -> None:
        """Take readiness back for good, and end streams."""
        self.health.drain()
        self._streams.drain()

    def _report_load(self, loop: asyncio.AbstractEventLoop, sample: Sample) -> None:
        """Renews the load report, again and again."""
        self._unary_calls.trailers = (OK_TRAILER, sample(self._clock()).trailer())
        loop.call_later(INTERVAL_S, self._report_load, loop, sample)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """The application's life: startup, serving, shutdown."""
        await receive()
        configure_logging()
        control = Control.from_environment()
        try:
            if self._on_startup is not None:
                await self._on_startup()
        except Exception as error:
            message = str(error) or type(error).__name__
            if not isinstance(error, ServingError | ValueError | OSError):
                log.exception("startup failed")
                message = f"{type(error).__name__}: {message}"
            if control is not None:
                control.send({"event": "failed", "message": message})
            await send({"type": "lifespan.startup.failed", "message": message})
            return
        if control is not None:
            loop = asyncio.get_running_loop()
            self.health.listen(lambda serving: control.send({"event": "health", "serving": serving}))
            control.listen(lambda: loop.call_soon_threadsafe(self.drain))
            if self.health.serving:
                control.send({"event": "health", "serving": True})
        if not self.health.managed:
            self.health.set_status("", SERVING)
        library = os.environ.pop(LIBRARY_VARIABLE, "")  # of this process alone
        if library:
            self._direct = DirectCalls(self._unary_calls, library, self._max_held_bytes)
            self._direct.listen(asyncio.get_running_loop())
        if control is not None:  # a server process, not a test
            tune_process()
        if self._load is not None:
            self._report_load(asyncio.get_running_loop(), self._load)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.drain()
        try:
            if self._on_shutdown is not None:
                await self._on_shutdown()
        except Exception as error:
            log.exception("shutdown failed")
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


def _start(fields: list[Field], *, trailers: bool = False) -> Event:
    return {"type": "http.response.start", "status": 200, "headers": fields, "trailers": trailers}
