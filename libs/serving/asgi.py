"""gRPC, and a little plain HTTP, as an ASGI application.

`GrpcApp` is the adapter between a transport-neutral `Handler` and an ASGI server that speaks HTTP/2 with
trailers. It is written for pyvoy and uses nothing but ASGI and its `http.response.trailers` extension.
Protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.

A success is response headers, one body message and the trailers; an error is trailers-only, that is,
`grpc-status` in the response headers and no body.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from libs.serving.call import Call, Handler, HttpHandler, Route
from libs.serving.control import Control, configure_logging, tune_process
from libs.serving.defects import defect
from libs.serving.errors import Cancelled, DeadlineExceeded, Internal, ServingError
from libs.serving.frames import ACCEPT_ENCODING, HEADER_BYTES, expected_bytes, frame, trailing_bytes, unframe
from libs.serving.headers import Metadata, header_fields
from libs.serving.health import SERVING, Health
from libs.serving.inflight import InFlight, LiveCall
from libs.serving.load_report import INTERVAL_S, Sample
from libs.serving.metrics import MethodStats, Metrics
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
from libs.serving.status import Code, encode_message, grpc_code, parse_timeout
from libs.serving.streams import StreamHandler, Streams

Hook = Callable[[], Awaitable[None]]

DEFAULT_MAX_MESSAGE_BYTES = 10 << 20
UNKNOWN_METHOD = "/unknown/unknown"
"""What metrics count calls of unknown methods under."""

log = logging.getLogger(__name__)

_CONTENT_TYPE = (b"content-type", b"application/grpc")
_OK_START: Event = {
    "type": "http.response.start",
    "status": 200,
    "headers": [_CONTENT_TYPE],
    "trailers": True,
}
_OK_TRAILERS: Event = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
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
        on_startup: Hook | None = None,
        on_shutdown: Hook | None = None,
        health: Health | None = None,
        metrics: Metrics | None = None,
        load: Sample | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.health = health if health is not None else Health()
        self.metrics = metrics if metrics is not None else Metrics()
        self._methods: dict[str, tuple[Handler, MethodStats]] = {
            path: (handler, self.metrics.method(path))
            for path, handler in {**self.health.handlers(), **handlers}.items()
        }
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
            names = {path.split("/")[1] for path in (*self._methods, *streaming)}
            streaming.update(Reflection(reflection, names).streams())
        self._streams = Streams(
            {path: (handler, self.metrics.method(path)) for path, handler in streaming.items()},
            self._unknown[1],
            max_message_bytes,
            clock,
        )
        self._http = PlainHttp([*served, *routes], self._methods, max_message_bytes, http_timeout_s, clock)
        self._max_message_bytes = max_message_bytes
        self._on_startup = on_startup
        self._on_shutdown = on_shutdown
        self._clock = clock
        self._load = load
        self._ok_trailers = _OK_TRAILERS
        self._in_flight = InFlight(clock)
        self.metrics.in_flight = self._in_flight.__len__

    @property
    def in_flight(self) -> int:
        """gRPC calls being served now."""
        return len(self._in_flight)

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
        """Serves one gRPC call. This is the hot path: every line here runs for every request."""
        clock = self._clock
        start = clock()
        path = scope["path"]
        loop = asyncio.get_running_loop()
        handler, stats = self._methods.get(path, self._unknown)
        if handler is None:  # it has streams, or is unknown
            await self._streams.serve(scope, headers, receive, send)
            return
        live = LiveCall(asyncio.current_task(loop), receive, start)
        call = Call(path, Metadata(scope["headers"]), None, live.cancelled)
        failure: ServingError | None = None
        body = b""
        begin = _OK_START
        try:
            timeout = headers.get(b"grpc-timeout")
            if timeout is not None:
                live.deadline = call.deadline = start + _timeout(timeout)
            self._in_flight.add(live, loop)
            event = await receive()
            data = event.get("body", b"")
            if event.get("more_body") or event["type"] != "http.request":
                data = await self._rest(event, receive, live)
            message = unframe(data, headers.get(b"grpc-encoding"), self._max_message_bytes)
            live.reading = False
            if call.deadline is not None and call.deadline <= clock():
                raise DeadlineExceeded("the deadline passed while the request was received")
            body = frame(await handler(call, message))
            if call.response_metadata:
                begin = {**_OK_START, "headers": [_CONTENT_TYPE, *header_fields(call.response_metadata)]}
            if live.expired:  # the handler went on although it was cancelled
                failure = _late()
        except ServingError as error:
            failure = error
        except asyncio.CancelledError as error:
            if live.expired:
                failure = _late()
            elif live.gone:
                failure = _gone()
            elif live.task is None or not live.task.cancelling():  # the handler's own idea
                failure = defect(path, error)
            else:  # the server is being stopped
                self._in_flight.remove(live)
                raise
        except Exception as error:
            failure = defect(path, error)
        self._in_flight.remove(live)
        code = 0
        try:
            if failure is None:
                await send(begin)
                await send({"type": "http.response.body", "body": body})
                await send(self._ok_trailers)
            else:
                code = grpc_code(failure)
                if not live.gone:
                    await send(_error_start(code, failure, call.response_metadata))
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
                raise _gone()
            if chunk := event.get("body", b""):
                chunks.append(chunk)
                size += len(chunk)
            if expected is None and size >= HEADER_BYTES:
                chunks = [b"".join(chunks)]
                expected = expected_bytes(chunks[0], self._max_message_bytes)
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
        trailer = sample(self._clock()).trailer()
        self._ok_trailers = {**_OK_TRAILERS, "headers": [*_OK_TRAILERS["headers"], trailer]}
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


def _timeout(value: bytes) -> float:
    try:
        return parse_timeout(value)
    except ValueError as error:
        raise Internal(str(error)) from None


def _late() -> ServingError:
    return DeadlineExceeded("the deadline passed before the answer was ready")


def _gone() -> ServingError:
    return Cancelled("the caller went away")


def _error_start(code: int, error: ServingError, metadata: Mapping[str, str]) -> Event:
    headers = [
        _CONTENT_TYPE,
        (b"grpc-status", b"%d" % code),
        (b"grpc-message", encode_message(error.message)),
    ]
    if code == Code.UNIMPLEMENTED:
        headers.append((b"grpc-accept-encoding", ACCEPT_ENCODING))
    if metadata:
        try:
            headers += header_fields(metadata)
        except ValueError:
            log.warning("response metadata left out of an error", exc_info=True)
    return {"type": "http.response.start", "status": 200, "headers": headers}
