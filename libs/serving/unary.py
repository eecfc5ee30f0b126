"""Serving one unary gRPC call, whichever transport brought it.

A transport makes a `Call` and a `LiveCall`, has `Unary.handle` make the answer, and sends that: for a success the
head, the message and the trailers; for an error a head alone, trailers-only, as the protocol has it:
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from libs.serving.call import Call, Handler
from libs.serving.defects import defect
from libs.serving.errors import Cancelled, DeadlineExceeded, Internal, ServingError
from libs.serving.frames import ACCEPT_ENCODING
from libs.serving.headers import Field, header_fields
from libs.serving.inflight import InFlight, LiveCall
from libs.serving.metrics import Metrics
from libs.serving.status import Code, encode_message, parse_timeout

log = logging.getLogger(__name__)

_CONTENT_TYPE = (b"content-type", b"application/grpc")
OK_TRAILER = (b"grpc-status", b"0")


class Unary:
    """The unary methods of a server and their calls in flight. Used on the event loop's thread.

    Args:
        handlers: by full method path, `/package.Service/Method`.
        metrics: counts the calls.
        max_message_bytes: bound of a request message, as sent and as decompressed.
        clock: of deadlines and durations, in seconds.

    Attributes:
        methods: handler and counts, by full method path.
        trailers: of every success.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        metrics: Metrics,
        max_message_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.methods = {path: (handler, metrics.method(path)) for path, handler in handlers.items()}
        self.trailers: tuple[Field, ...] = (OK_TRAILER,)
        self.in_flight = InFlight(clock)
        self.max_message_bytes = max_message_bytes
        self.clock = clock

    async def handle(
        self, handler: Handler, call: Call, live: LiveCall, message: bytes
    ) -> tuple[bytes, ServingError | None]:
        """The answer to a message, or why there is none. The hot path: every line here runs for every request."""
        live.reading = False
        try:
            if call.deadline is not None and call.deadline <= self.clock():
                raise DeadlineExceeded("the deadline passed while the request was received")
            answer = await handler(call, message)
            if not isinstance(answer, bytes):
                raise TypeError(f"a handler's answer must be bytes, not {type(answer).__name__}")
            if call.response_metadata:
                header_fields(call.response_metadata)  # raises where it is not allowed
            # A handler may have gone on although it was cancelled.
            return answer, late() if live.expired else None
        except ServingError as error:
            return b"", error
        except asyncio.CancelledError as error:
            if live.expired:
                return b"", late()
            if live.gone:
                return b"", gone()
            if live.task is None or not live.task.cancelling():  # the handler's own idea
                return b"", defect(call.method, error)
            self.in_flight.remove(live)  # the server is being stopped
            raise
        except Exception as error:
            return b"", defect(call.method, error)


def timeout_s(value: bytes) -> float:
    """Seconds of a value of `grpc-timeout`. Raises Internal when it is none."""
    try:
        return parse_timeout(value)
    except ValueError as error:
        raise Internal(str(error)) from None


def late() -> ServingError:
    """The error of a call whose deadline has passed."""
    return DeadlineExceeded("the deadline passed before the answer was ready")


def gone() -> ServingError:
    """The error of a call that nobody waits for."""
    return Cancelled("the caller went away")


def ok_fields(metadata: Mapping[str, str]) -> list[Field]:
    """The head of a success, but for the HTTP status."""
    return [_CONTENT_TYPE, *header_fields(metadata)]


def error_fields(code: int, error: ServingError, metadata: Mapping[str, str]) -> list[Field]:
    """The head of an error, but for the HTTP status; there is nothing after it."""
    fields = [
        _CONTENT_TYPE,
        (b"grpc-status", b"%d" % code),
        (b"grpc-message", encode_message(error.message)),
    ]
    if code == Code.UNIMPLEMENTED:
        fields.append((b"grpc-accept-encoding", ACCEPT_ENCODING))
    if metadata:
        try:
            fields += header_fields(metadata)
        except ValueError:
            log.warning("response metadata left out of an error", exc_info=True)
    return fields
