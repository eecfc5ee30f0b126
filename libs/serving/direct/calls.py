"""The calls that come by the exchange."""

from __future__ import annotations

import asyncio

from libs.serving.call import Call
from libs.serving.direct.exchange import NO_TIMEOUT, Exchange, Kind, memory_at
from libs.serving.errors import ResourceExhausted, ServingError
from libs.serving.frames import unframe
from libs.serving.headers import Field, Metadata, pack_fields, unpack_fields
from libs.serving.inflight import LiveCall
from libs.serving.status import grpc_code
from libs.serving.unary import Unary, error_fields, gone, ok_fields, timeout_s

_STATUS = (b":status", b"200")
_OK_HEAD = pack_fields([_STATUS, *ok_fields({})])


class DirectCalls:
    """Serves them. Used on the event loop's thread; times are those of the monotonic clock.

    Args:
        unary: what to serve.
        library: path of the filter that Envoy has loaded.
        max_held_bytes: memory of the requests of all calls together.

    Raises:
        OSError: as `Exchange` does.
    """

    def __init__(self, unary: Unary, library: str, max_held_bytes: int) -> None:
        self._unary = unary
        self._methods = [(path, *of) for path, of in unary.methods.items()]
        self._exchange = Exchange(library, list(unary.methods), unary.max_message_bytes, max_held_bytes)
        self._max_held_bytes = max_held_bytes
        self._given: dict[int, LiveCall] = {}
        self._trailers: tuple[Field, ...] = ()
        self._packed_trailers = b""

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serves from here on."""
        loop.add_reader(self._exchange.fileno, self._take, loop)

    @property
    def held(self) -> int:
        """Calls that there is memory of, here or at the filter."""
        return max(len(self._given), self._exchange.held)

    def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins every call that has come."""
        unary = self._unary
        if self._trailers is not unary.trailers:
            self._trailers = unary.trailers
            self._packed_trailers = pack_fields(unary.trailers)
        for (
            ident,
            kind,
            method,
            timeout_ns,
            arrived_ns,
            fields_at,
            fields_size,
            body_at,
            body_size,
        ) in self._exchange.take():
            if kind == Kind.GONE:
                self._abandon(ident)
                continue
            live = LiveCall(None, None, arrived_ns * 1e-9)
            if timeout_ns != NO_TIMEOUT:
                live.deadline = live.since + timeout_ns * 1e-9
            self._given[ident] = live
            unary.in_flight.add(live, loop)
            packed = memory_at(fields_at, fields_size)
            body = memory_at(body_at, body_size)
            live.task = loop.create_task(self._serve(ident, kind, method, packed, body, live))

    def _abandon(self, ident: int) -> None:
        live = self._given.get(ident)
        if live is not None:
            live.gone = True
            live.abandon()

    async def _serve(
        self, ident: int, kind: int, method: int, packed: bytes, message: bytes, live: LiveCall
    ) -> None:
        path, handler, stats = self._methods[method]
        call = Call(path, Metadata(packed), live.deadline, live.cancelled)
        answer = b""
        failure: ServingError | None = None
        try:
            if live.gone:
                raise gone()
            if kind != Kind.MESSAGE:
                message = self._message(kind, packed, message)
        except ServingError as error:
            failure = error
        else:
            answer, failure = await self._unary.handle(handler, call, live, message)
        self._unary.in_flight.remove(live)
        del self._given[ident]
        code = 0
        if failure is None:
            head = (
                pack_fields([_STATUS, *ok_fields(call.response_metadata)])
                if call.response_metadata
                else _OK_HEAD
            )
            self._exchange.answer(ident, head, answer, self._packed_trailers)
        else:
            code = grpc_code(failure)
            if live.gone:
                self._exchange.drop(ident)
            else:
                fields = [_STATUS, *error_fields(code, failure, call.response_metadata)]
                self._exchange.answer(ident, pack_fields(fields), b"", b"")
        stats.observe(code, self._unary.clock() - live.since)

    def _message(self, kind: int, packed: bytes, body: bytes) -> bytes:
        """The message of a body that is not simply one.

        Raises:
            ServingError: there is no message, or the filter did not understand the call's timeout.
        """
        if kind == Kind.FULL:
            raise ResourceExhausted(
                f"the server holds all the requests that it may, {self._max_held_bytes} bytes: try again later"
            )
        fields = dict(unpack_fields(packed))
        timeout = fields.get(b"grpc-timeout")
        if timeout is not None:
            timeout_s(timeout)
        return unframe(body, fields.get(b"grpc-encoding"), self._unary.max_message_bytes)
