"""What an Envoy holds, has been sent, and is to be sent next: one stream of the aggregated discovery service."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from services.gateway.discovery_types import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTE,
    RUNTIME,
    SECRET,
    Held,
    response,
)
from services.gateway.names import ROUTES
from services.gateway.snapshot import Resource, Snapshot

_WILDCARD = (CLUSTER, LISTENER)  # subscribed to as a whole; the others by name

# Routes to a new pool wait until Envoy has the pool's instances, but not for ever: an Envoy that never asks
# for them must still get the rest of the table.
ROUTES_WAIT_S = 3.0


class Stream:
    """One ADS stream without any I/O: feed it requests, ask it what to send.

    The order keeps every call routable (make before break): clusters, then their endpoints, then the routes
    that name them; a cluster is taken away only after the routes that named it are gone. At most one response
    of a type is unanswered, so a slow Envoy is not flooded, and what it rejected is not sent again until it
    changes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clusters, self._endpoints, self._routes = Held(), Held(), Held()
        self._listeners, self._secrets, self._runtime = Held(), Held(), Held()
        self._types = {
            CLUSTER: self._clusters,
            ENDPOINTS: self._endpoints,
            ROUTE: self._routes,
            LISTENER: self._listeners,
            SECRET: self._secrets,
            RUNTIME: self._runtime,
        }
        self._nonces = itertools.count(1)
        self._routed: frozenset[str] = frozenset()  # clusters that the accepted routes name
        self._routing: frozenset[str] = frozenset()  # clusters that the last routes sent name
        self._waiting: tuple[str, float] | None = None  # version of the routes held back, and until when

    def on_request(self, request: Any) -> str | None:
        """Takes in a subscription, an ACK or a NACK. Returns what Envoy says is wrong when it is a NACK."""
        state = self._types.get(request.type_url)
        if state is None or (request.response_nonce and request.response_nonce != state.nonce):
            return None  # a type that is not served here, or an answer that a newer response has overtaken
        state.subscribed = True
        if request.type_url not in _WILDCARD:
            state.names = frozenset(request.resource_names)
            # What Envoy no longer asks for it has dropped: it is sent again if it comes back.
            state.sent = {name: resource for name, resource in state.sent.items() if name in state.names}
        if not request.response_nonce or state.answered:
            return None
        state.answered = True
        if request.HasField("error_detail"):
            state.error = f"{request.type_url.rpartition('.')[2]}: {request.error_detail.message}"
            if request.type_url == ROUTE:
                self._routing = self._routed
            return state.error
        state.error = ""
        if request.type_url == ROUTE:
            self._routed = self._routing
        return None

    def outbox(self, snapshot: Snapshot) -> list[Any]:
        """What to send now to bring Envoy nearer to the snapshot. Asked again without news, it is empty."""
        if snapshot.routes is None:
            return []
        if self._routes.idle and not self._routes.error and self._routes.holds(ROUTES, snapshot.routes):
            # A pool that no route named may go without new routes.
            self._routed = self._routing = self._routed & snapshot.clusters.keys()
        found = (
            self._next_clusters(snapshot),
            self._next_named(ENDPOINTS, snapshot.endpoints),
            self._next_named(RUNTIME, snapshot.runtime),
            self._next_named(SECRET, snapshot.secrets),
            self._next_listeners(snapshot),
            self._next_routes(snapshot),
        )
        return [response for response in found if response is not None]

    def settled(self, snapshot: Snapshot) -> bool:
        """Envoy has accepted the whole snapshot and holds nothing else."""
        return (
            snapshot.routes is not None
            and all(state.idle and not state.error for state in self._types.values() if state.subscribed)
            and self._routes.subscribed
            and all(self._listeners.holds(*each) for each in snapshot.listeners.items())
            and self._holds_asked(self._secrets, snapshot.secrets)
            and self._holds_asked(self._runtime, snapshot.runtime)
            and self._clusters.sent.keys() == snapshot.clusters.keys()
            and self._has_pools(snapshot)
            and self._routes.holds(ROUTES, snapshot.routes)
        )

    @staticmethod
    def _holds_asked(state: Held, resources: Mapping[str, Resource]) -> bool:
        return all(state.holds(name, resources[name]) for name in state.names if name in resources)

    def next_wake(self) -> float | None:
        """Seconds after which `outbox` may have more even without a request; None: not before one."""
        return None if self._waiting is None else max(0.0, self._waiting[1] - self._clock())

    def _has_pools(self, snapshot: Snapshot) -> bool:
        return (
            self._clusters.idle
            and self._endpoints.idle
            and all(self._clusters.holds(name, resource) for name, resource in snapshot.clusters.items())
            and all(self._endpoints.holds(name, resource) for name, resource in snapshot.endpoints.items())
        )

    def _next_clusters(self, snapshot: Snapshot) -> Any | None:
        state = self._clusters
        if not state.idle:
            return None
        in_use = self._routed | self._routing
        wanted = {name: r for name, r in state.sent.items() if name in in_use} | dict(snapshot.clusters)
        changed = [name for name, resource in wanted.items() if not state.holds(name, resource)]
        if not changed and wanted.keys() == state.sent.keys():
            return None
        for name in changed:  # a cluster that is new or rebuilt waits for its endpoints
            self._endpoints.sent.pop(name, None)
        return self._respond(CLUSTER, wanted, wanted.values())

    def _next_named(self, type_url: str, resources: Mapping[str, Resource]) -> Any | None:
        state = self._types[type_url]
        if not state.idle:
            return None
        changed = {
            name: resource
            for name, resource in resources.items()
            if name in state.names and not state.holds(name, resource)
        }
        return self._respond(type_url, state.sent | changed, changed.values()) if changed else None

    def _next_listeners(self, snapshot: Snapshot) -> Any | None:
        state, wanted = self._listeners, dict(snapshot.listeners)
        if not state.idle or (
            wanted.keys() == state.sent.keys() and all(state.holds(*each) for each in wanted.items())
        ):
            return None
        return self._respond(LISTENER, wanted, wanted.values())

    def _next_routes(self, snapshot: Snapshot) -> Any | None:
        state, routes = self._routes, snapshot.routes
        if routes is None or not state.idle or state.holds(ROUTES, routes):
            self._waiting = None
            return None
        if not self._has_pools(snapshot):
            if self._waiting is None or self._waiting[0] != routes.version:
                self._waiting = (routes.version, self._clock() + ROUTES_WAIT_S)
            if self._clock() < self._waiting[1]:
                return None
        self._waiting = None
        self._routing = frozenset(snapshot.clusters)
        return self._respond(ROUTE, {ROUTES: routes}, [routes])

    def _respond(self, type_url: str, state_after: dict[str, Resource], resources: Iterable[Resource]) -> Any:
        state = self._types[type_url]
        state.sent, state.nonce, state.answered = state_after, str(next(self._nonces)), False
        return response(type_url, state.nonce, resources)
