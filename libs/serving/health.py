"""Health of a server: the grpc.health.v1 service and the HTTP probes, over one state.

Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md. `Check` with the empty service name
    asks for
the whole server; `Watch` tells each change as long as the caller stays:

    message HealthCheckRequest  { string service = 1; }
    message HealthCheckResponse { ServingStatus status = 1; }  // UNKNOWN 0, SERVING 1, NOT_SERVING 2
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from enum import IntEnum

from libs.serving.call import Call, Handler, HttpHandler, HttpRequest, HttpResponse
from libs.serving.errors import InvalidArgument, NotFound
from libs.serving.protowire import WireError, fields, text
from libs.serving.streams import StreamHandler

SERVICE = "grpc.health.v1.Health"


class ServingStatus(IntEnum):
    """Values of HealthCheckResponse.ServingStatus."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2


# Envoy ends streams that are silent for five minutes; a status told again is no news to a watcher.
_REPEAT_S = 120.0
# What Watch says of a service that it may yet hear of.
_SERVICE_UNKNOWN = 3

SERVING = ServingStatus.SERVING
NOT_SERVING = ServingStatus.NOT_SERVING


class Health:
    """Serving status by service name; `""` is the whole server and begins as NOT_SERVING."""

    def __init__(self) -> None:
        self._statuses: dict[str, ServingStatus] = {"": NOT_SERVING}
        self._draining = False
        self._listeners: list[Callable[[bool], None]] = []
        self._changed = asyncio.Event()
        self.managed = False
        """Whether the application itself has set the whole server's status."""

    @property
    def serving(self) -> bool:
        """Whether the whole server is ready for traffic."""
        return self.status("") is SERVING

    @property
    def draining(self) -> bool:
        """Whether the server is on its way out."""
        return self._draining

    def status(self, service: str) -> ServingStatus | None:
        """The status of a service; None if the service is unknown."""
        status = self._statuses.get(service)
        return NOT_SERVING if status is not None and self._draining else status

    def set_status(self, service: str, status: ServingStatus) -> None:
        """Sets one service's status; call it on the event loop. While draining all stay NOT_SERVING."""
        before = self.serving
        if service == "":
            self.managed = True
        self._statuses[service] = status
        self._notify(before)

    def forget(self, service: str) -> None:
        """Makes a service unknown; call it on the event loop."""
        before = self.serving
        self._statuses.pop(service, None)
        self._notify(before)

    def services(self) -> list[str]:
        """The services that are known; "" is the whole server."""
        return list(self._statuses)

    def drain(self) -> None:
        """Makes every service NOT_SERVING for good."""
        before = self.serving
        self._draining = True
        self._notify(before)

    def listen(self, listener: Callable[[bool], None]) -> None:
        """Calls back with `serving` whenever it changes."""
        self._listeners.append(listener)

    def handlers(self) -> dict[str, Handler]:
        """Handlers of the grpc.health.v1 service by method path."""
        return {f"/{SERVICE}/Check": self._check}

    def streams(self) -> dict[str, StreamHandler]:
        """Handlers of its method with a stream."""
        return {f"/{SERVICE}/Watch": self._watch}

    def http(self) -> dict[tuple[str, str], HttpHandler]:
        """`/health/live`: the process answers. `/health/ready`: traffic is welcome (200) or not (503)."""
        return {("GET", "/health/live"): self._live, ("GET", "/health/ready"): self._ready}

    def _notify(self, before: bool) -> None:
        # Those who wait for the old event see the change, and wait for the new one next.
        self._changed.set()
        self._changed = asyncio.Event()
        now = self.serving
        if now is not before:
            for listener in self._listeners:
                listener(now)

    async def _check(self, call: Call, request: bytes) -> bytes:
        service = _requested_service(request)
        status = self.status(service)
        if status is None:
            raise NotFound(f"unknown service {service!r}")
        return bytes((0x08, status))  # field 1, varint

    async def _watch(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        messages = [message async for message in requests]
        if len(messages) != 1:
            raise InvalidArgument(f"expected one request, got {len(messages)}")
        service = _requested_service(messages[0])
        told: int | None = None
        while True:
            status = self.status(service)
            now = _SERVICE_UNKNOWN if status is None else int(status)
            if now != told:
                told = now
                yield bytes((0x08, now))
                continue
            try:
                await asyncio.wait_for(self._changed.wait(), _REPEAT_S)
            except TimeoutError:
                told = None

    async def _live(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, b"live\n")

    async def _ready(self, request: HttpRequest) -> HttpResponse:
        if self.serving:
            return HttpResponse(200, b"ready\n")
        return HttpResponse(503, b"draining\n" if self._draining else b"not ready\n")


def _requested_service(request: bytes) -> str:
    """Field 1 of a HealthCheckRequest; other fields are skipped, the last value wins (proto3)."""
    try:
        return text(dict(fields(request)).get(1, b""))
    except WireError:
        raise InvalidArgument("the request is no grpc.health.v1.HealthCheckRequest") from None
