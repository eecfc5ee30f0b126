"""What a transport hands to a handler, and what a handler gives back.

A handler is an async function from a `Call` and the bytes of one request message to the bytes of one response
message. It fails by raising a `libs.serving.errors.ServingError`. Nothing here knows which transport carries
the call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from libs.serving.errors import ServingError


def never_cancelled() -> bool:
    """The `cancelled` of a call whose caller cannot go away."""
    return False


@dataclass(slots=True)
class Call:
    """One unary call.

    Attributes:
        method: full method path, such as `/seldon.protos.Model/Predict`.
        metadata: request metadata, keys in lower case. Values of keys that end in `-bin` stay base64 text, as
            on the wire. Of a repeated key the values are joined by `,`.
        deadline: when the caller stops waiting, in seconds on `time.monotonic`'s clock; None if it named no
            deadline.
        cancelled: says whether the caller is known to be gone. Cheap, callable from any thread, never blocks.
            Work that has not begun should not begin once this is true.
        response_metadata: initial metadata that a handler may add; lower-case keys, printable ASCII values.
        subject: what the call is about, such as its model, once a handler knows; for metrics.
    """

    method: str
    metadata: Mapping[str, str]
    deadline: float | None = None
    cancelled: Callable[[], bool] = never_cancelled
    response_metadata: dict[str, str] = field(default_factory=dict)
    subject: str = ""


Handler = Callable[[Call, bytes], Awaitable[bytes]]
"""Serves one method. The request may be any bytes-like view of the message; the answer is the response
message."""


@dataclass(slots=True)
class HttpRequest:
    """One plain HTTP request: metrics, probes, REST.

    Attributes:
        method: `GET`, `POST` and so on.
        path: decoded path without the query.
        query: query string as sent, without `?`.
        headers: names in lower case; of a repeated name the values are joined by `,`.
        body: whole body, decompressed, within the server's message limit.
        params: what stands in the path for the parts in braces of the route's.
        deadline, cancelled: as in `Call`.
        raw_path: path as sent, with its percent signs.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    params: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    cancelled: Callable[[], bool] = never_cancelled
    raw_path: str = ""

    def call(self) -> Call:
        """This request for handlers that know no HTTP."""
        return Call(self.path, self.headers, self.deadline, self.cancelled)


@dataclass(slots=True)
class HttpResponse:
    """The answer to an `HttpRequest`."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


HttpHandler = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""Serves one (method, path) pair over plain HTTP."""


@dataclass(frozen=True, slots=True)
class Route:
    """What serves one method of one path, or of a pattern of paths, over plain HTTP.

    Attributes:
        method: `GET`, `POST` and so on.
        path: a part in braces stands for one segment of any text, `/models/{name}/ready`, or, as the last part and
            with dots, for all that is left, `/v1/{rest...}`.
        handler: fails by raising a `ServingError`.
        fail: makes the answer of an error and its HTTP status.
    """

    method: str
    path: str
    handler: HttpHandler
    fail: Callable[[int, ServingError], HttpResponse]
