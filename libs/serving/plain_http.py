"""Plain HTTP beside gRPC on the same port: metrics, probes, and what an application adds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any

from libs.serving.call import HttpHandler, HttpRequest, HttpResponse
from libs.serving.defects import defect
from libs.serving.errors import Cancelled, ResourceExhausted, ServingError
from libs.serving.headers import Metadata
from libs.serving.status import http_status

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class PlainHttp:
    """ASGI application over `HttpHandler`s.

    Args:
        handlers: by (HTTP method, path).
        grpc_paths: paths that only gRPC serves; asked otherwise they answer 405 or 415 instead of 404.
        max_body_bytes: bound of a request body.
    """

    def __init__(
        self,
        handlers: Mapping[tuple[str, str], HttpHandler],
        grpc_paths: Collection[str],
        max_body_bytes: int,
    ) -> None:
        self._handlers = handlers
        self._grpc_paths = grpc_paths
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        handler = self._handlers.get((method, path))
        try:
            if handler is None:
                response = self._refusal(method, path)
            else:
                body = await self._body(receive)
                headers = Metadata(scope["headers"], hidden=frozenset())
                query = scope.get("query_string", b"").decode("latin-1")
                response = await handler(HttpRequest(method, path, query, headers, body))
        except _BodyTooLarge as error:
            response = _text(413, error.message)
        except ServingError as error:
            response = _text(http_status(error), error.message)
        except Exception as error:
            response = _text(500, defect(f"{method} {path}", error).message)
        try:
            await send(_start(response))
            await send({"type": "http.response.body", "body": response.body})
        except OSError:  # the caller has gone
            return

    def _refusal(self, method: str, path: str) -> HttpResponse:
        """Why there is no handler for this."""
        if path in self._grpc_paths:
            if method == "POST":
                return _text(415, "expected content-type: application/grpc")
            allowed = "POST"
        else:
            allowed = ", ".join(sorted(verb for verb, known in self._handlers if known == path))
            if not allowed:
                return _text(404, "no such path")
        response = _text(405, f"expected {allowed}")
        response.headers["allow"] = allowed
        return response

    async def _body(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            event = await receive()
            if event["type"] != "http.request":
                raise Cancelled("the caller went away")
            chunks.append(event.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_body_bytes:
                raise _BodyTooLarge(f"the body is too large: at most {self._max_body_bytes} bytes")
            if not event.get("more_body"):
                return b"".join(chunks)


class _BodyTooLarge(ResourceExhausted):
    """HTTP has a status of its own for this."""


def _text(status: int, text: str) -> HttpResponse:
    return HttpResponse(status, text.encode() + b"\n")


def _start(response: HttpResponse) -> Event:
    headers = [
        (b"content-type", response.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(response.body)),
    ]
    headers += [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()
    ]
    return {"type": "http.response.start", "status": response.status, "headers": headers}
