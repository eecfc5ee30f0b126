"""Plain HTTP beside gRPC on the same port: metrics, probes, REST, and what an application adds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any

from libs.serving.call import HttpRequest, HttpResponse, Route
from libs.serving.defects import defect
from libs.serving.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServingError,
    Unimplemented,
)
from libs.serving.frames import inflate
from libs.serving.headers import Metadata
from libs.serving.inflight import InFlight, LiveCall
from libs.serving.routes import Routes
from libs.serving.status import http_status, parse_timeout

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

# How callers of REST say how long they wait, besides grpc-timeout, whose syntax gateways from REST to gRPC know.
_MILLISECONDS = "x-request-timeout-ms"
DEFAULT_TIMEOUT_S = 60.0


class PlainHttp:
    """ASGI application over routes.

    Args:
        routes: what is served; see `Route`.
        grpc_paths: paths that only gRPC serves; asked otherwise they answer 405 or 415 instead of 404.
        max_body_bytes: bound of a request body, as sent and as decompressed.
        timeout_s: when a request ends whose caller names no time, or a longer one.
        clock: of deadlines.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        grpc_paths: Collection[str],
        max_body_bytes: int,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._routes = Routes(routes)
        self._grpc_paths = grpc_paths
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s
        self._clock = clock
        self._in_flight = InFlight(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        found = self._routes.find(method, path)
        response: HttpResponse | None
        if found is None:
            response = self._refusal(method, path)
        else:
            response = await self._serve(found[0], found[1], scope, receive)
        if response is None:
            return
        try:
            await send(_start(response))
            await send({"type": "http.response.body", "body": response.body})
        except OSError:  # the caller has gone
            return

    async def _serve(
        self, route: Route, params: Mapping[str, str], scope: Scope, receive: Receive
    ) -> HttpResponse | None:
        """A route's answer; None when nobody waits for it."""
        loop = asyncio.get_running_loop()
        start = self._clock()
        live = LiveCall(asyncio.current_task(loop), receive, start)
        failure: ServingError
        try:
            headers = Metadata(scope["headers"], hidden=frozenset())
            live.deadline = deadline = start + _timeout(headers, self._timeout_s)
            self._in_flight.add(live, loop)
            body = await self._body(receive, headers, live)
            live.reading = False
            if deadline <= self._clock():
                raise DeadlineExceeded("the time was up while the request was received")
            query = scope.get("query_string", b"").decode("latin-1")
            raw_path = scope.get("raw_path", b"").decode("latin-1")
            request = HttpRequest(
                scope["method"],
                scope["path"],
                query,
                headers,
                body,
                params,
                deadline,
                live.cancelled,
                raw_path,
            )
            response = await route.handler(request)
            if not live.expired:
                return response
            failure = _late()
        except _BodyTooLarge as error:
            return route.fail(413, error)
        except _UnknownEncoding as error:
            return route.fail(415, error)
        except ServingError as error:
            failure = error
        except asyncio.CancelledError:
            if live.gone:
                return None
            if not live.expired:  # the server is being stopped
                raise
            failure = _late()
        except Exception as error:
            failure = defect(f"{scope['method']} {scope['path']}", error)
        finally:
            self._in_flight.remove(live)
        return None if live.gone else route.fail(http_status(failure), failure)

    def _refusal(self, method: str, path: str) -> HttpResponse:
        """Why there is no handler for this."""
        if path in self._grpc_paths:
            if method == "POST":
                return plain_failure(415, InvalidArgument("expected content-type: application/grpc"))
            return _not_allowed(plain_failure, ["POST"])
        others = self._routes.methods(path)
        if not others:
            return plain_failure(404, NotFound("no such path"))
        return _not_allowed(next(iter(others.values())).fail, sorted(others))

    async def _body(self, receive: Receive, headers: Mapping[str, str], live: LiveCall) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            event = await receive()
            if event["type"] != "http.request":
                live.gone = True
                raise Cancelled("the caller went away")
            chunks.append(event.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_body_bytes:
                raise _BodyTooLarge(f"the body is too large: at most {self._max_body_bytes} bytes")
            if not event.get("more_body"):
                break
            if live.expired:
                raise DeadlineExceeded("the time was up while the request was received")
        body = b"".join(chunks)
        encoding = headers.get("content-encoding", "identity").strip().lower()
        return body if encoding == "identity" or not body else self._decoded(body, encoding)

    def _decoded(self, body: bytes, encoding: str) -> bytes:
        try:
            return inflate(body, encoding.encode(), self._max_body_bytes)
        except Unimplemented as error:
            raise _UnknownEncoding(f"content-encoding {error.message}") from None
        except ResourceExhausted as error:
            raise _BodyTooLarge(error.message) from None
        except ServingError as error:
            raise InvalidArgument(error.message) from None


class _BodyTooLarge(ResourceExhausted):
    """HTTP has a status of its own for this."""


class _UnknownEncoding(InvalidArgument):
    """And for this."""


def plain_failure(status: int, error: ServingError) -> HttpResponse:
    """An error as a line of text."""
    return HttpResponse(status, error.message.encode() + b"\n")


def _not_allowed(fail: Callable[[int, ServingError], HttpResponse], methods: Sequence[str]) -> HttpResponse:
    allowed = ", ".join(methods)
    response = fail(405, Unimplemented(f"expected {allowed}"))
    response.headers["allow"] = allowed
    return response


def _late() -> ServingError:
    return DeadlineExceeded("the time was up before the answer was ready")


def _timeout(headers: Mapping[str, str], most: float) -> float:
    """Seconds until a request's deadline, the shortest of what its headers say and `most`."""
    shortest = most
    try:
        text = headers.get("grpc-timeout")
        if text is not None:
            shortest = min(shortest, parse_timeout(text.encode()))
        text = headers.get(_MILLISECONDS)
        if text is not None:
            if not text.isdecimal():
                raise ValueError(f"{_MILLISECONDS}: {text!r}: expected whole milliseconds")
            shortest = min(shortest, int(text) / 1e3)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    return shortest


def _start(response: HttpResponse) -> Event:
    headers = [
        (b"content-type", response.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(response.body)),
    ]
    headers += [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()
    ]
    return {"type": "http.response.start", "status": response.status, "headers": headers}
