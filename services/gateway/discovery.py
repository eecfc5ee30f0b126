"""The aggregated discovery service: serves the current table to every Envoy and every gRPC client that connects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc

from services.gateway.bootstrap import LISTEN_METADATA
from services.gateway.discovery_stream import Stream
from services.gateway.names import LISTENER
from services.gateway.snapshot import Resource, Snapshot
from services.gateway.xds_clients import ClientView
from services.gateway.xds_clients_stream import ClientStream
from services.gateway.xds_messages import stream_handler

log = logging.getLogger(__name__)

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"

ListenerAt = Callable[[str, int], Resource]


class Discovery:
    """Streams are of two kinds: an Envoy gets the snapshot, a gRPC client what it asks for of the client view."""

    def __init__(self) -> None:
        self._snapshot = Snapshot()
        self._clients: ClientView | None = None
        self._listener_at: ListenerAt | None = None
        self._listeners: dict[tuple[str, int], Resource] = {}  # of this snapshot, for Envoys elsewhere
        self._wakers: set[asyncio.Event] = set()
        self._streams: dict[Stream, tuple[str, int] | None] = {}
        self.last_error = ""  # the last rejection by an Envoy, until everything is accepted again

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def connected(self) -> int:
        """The number of Envoys on a stream."""
        return len(self._streams)

    @property
    def settled(self) -> bool:
        """At least one Envoy is connected and all of them have accepted all of the snapshot."""
        return bool(self._streams) and all(
            stream.settled(self._snapshot_for(address)) for stream, address in self._streams.items()
        )

    def update(
        self,
        snapshot: Snapshot,
        clients: ClientView | None = None,
        listener_at: ListenerAt | None = None,
    ) -> None:
        """Serves this from now on. `listener_at` makes the listener of an Envoy that takes calls at another address."""
        self._snapshot = snapshot
        self._clients = clients
        self._listener_at = listener_at
        self._listeners.clear()
        self._wake()

    def reweigh(self, snapshot: Snapshot) -> None:
        """The same with other weights."""
        self._snapshot = snapshot
        if self._clients is not None:
            self._clients = self._clients.reweighed()
        self._wake()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for a grpc.aio server."""
        return stream_handler(
            _SERVICE, "StreamAggregatedResources", "envoy.service.discovery.v3.DiscoveryRequest", self._stream
        )

    def _wake(self) -> None:
        for waker in self._wakers:
            waker.set()

    def _snapshot_for(self, address: tuple[str, int] | None) -> Snapshot:
        if address is None or self._listener_at is None or self._snapshot.routes is None:
            return self._snapshot
        if address not in self._listeners:
            self._listeners[address] = self._listener_at(*address)
        return replace(self._snapshot, listeners={LISTENER: self._listeners[address]})

    async def _stream(self, requests: AsyncIterator[Any], context: object) -> AsyncIterator[Any]:
        first = await anext(aiter(requests), None)
        if first is None:
            return
        # gRPC's libraries say "gRPC C-core", "gRPC Go", "gRPC Java"; Envoy says "envoy".
        serve = self._serve_client if first.node.user_agent_name.startswith("gRPC") else self._serve_envoy
        async with contextlib.aclosing(serve(first, requests)) as responses:
            async for response in responses:
                yield response

    async def _serve_envoy(self, first: Any, requests: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        stream, address = Stream(), _address(first.node)
        self._streams[stream] = address

        def heard(request: Any) -> None:
            error = stream.on_request(request)
            if error:
                self.last_error = error
                log.error("Envoy rejected the configuration and keeps what it has: %s", error)

        def outbox() -> list[Any]:
            found = stream.outbox(self._snapshot_for(address))
            if self.last_error and self.settled:
                self.last_error = ""
            return found

        try:
            async with contextlib.aclosing(
                self._exchange(first, requests, heard, outbox, stream.next_wake)
            ) as responses:
                async for response in responses:
                    yield response
        finally:
            del self._streams[stream]

    async def _serve_client(self, first: Any, requests: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        stream = ClientStream()

        def heard(request: Any) -> None:
            error = stream.on_request(request)
            if error:
                log.error("a gRPC client rejected the configuration and keeps what it has: %s", error)

        def outbox() -> list[Any]:
            return stream.outbox(self._clients) if self._clients is not None else []

        async with contextlib.aclosing(
            self._exchange(first, requests, heard, outbox, lambda: None)
        ) as responses:
            async for response in responses:
                yield response

    async def _exchange(
        self,
        first: Any,
        requests: AsyncIterator[Any],
        heard: Callable[[Any], None],
        outbox: Callable[[], list[Any]],
        next_wake: Callable[[], float | None],
    ) -> AsyncGenerator[Any]:
        waker = asyncio.Event()
        self._wakers.add(waker)

        async def read() -> None:
            try:
                async for request in requests:
                    heard(request)
                    waker.set()
            finally:
                waker.set()

        heard(first)
        reader = asyncio.create_task(read())
        try:
            while not reader.done():
                waker.clear()
                for response in outbox():
                    yield response
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(waker.wait(), next_wake())
        finally:
            reader.cancel()
            self._wakers.discard(waker)


def _address(node: Any) -> tuple[str, int] | None:
    """Where an Envoy says that it takes calls; None when it does not say, as ours, which gets the gateway's own."""
    if LISTEN_METADATA not in node.metadata.fields:
        return None
    host, _, port = node.metadata.fields[LISTEN_METADATA].string_value.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        log.error("an Envoy's node names no address by %r", LISTEN_METADATA)
        return None
    return host.strip("[]"), int(port)
