"""One gRPC client's discovery stream, without I/O: it names what it wants, and is sent that whenever it changes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.gateway.discovery_types import CLUSTER, ENDPOINTS, LISTENER, response
from services.gateway.snapshot import Resource
from services.gateway.xds_clients import ClientView


@dataclass(slots=True)
class _Wanted:
    names: frozenset[str] = frozenset()
    told: Mapping[str, str] = field(
        default_factory=dict
    )  # version by name; "" is that there is no such resource
    nonce: str = ""
    answered: bool = True


class ClientStream:
    """Feed it requests, ask it what to send.

    The client goes its own way from the listener over the clusters to their instances, and uses nothing before it has
    all of it, so the order needs no care here. Every answer holds all of a type that the client asks for: it takes a
    listener or cluster that is missing for one that does not exist, and fails the calls to it.
    """

    def __init__(self) -> None:
        self._types = {LISTENER: _Wanted(), CLUSTER: _Wanted(), ENDPOINTS: _Wanted()}
        self._nonces = itertools.count(1)

    def on_request(self, request: Any) -> str | None:
        """Takes in a subscription, an ACK or a NACK. Returns what the client says is wrong when it is a NACK."""
        state = self._types.get(request.type_url)
        if state is None or (request.response_nonce and request.response_nonce != state.nonce):
            return None  # a type that is not served here, or an answer that a newer response has overtaken
        state.names = frozenset(request.resource_names)
        # What the client no longer asks for it has dropped: it is sent again if it comes back.
        state.told = {name: version for name, version in state.told.items() if name in state.names}
        if not request.response_nonce or state.answered:
            return None
        state.answered = True
        if request.HasField("error_detail"):
            return f"{request.type_url.rpartition('.')[2]}: {request.error_detail.message}"
        return None

    def outbox(self, view: ClientView) -> list[Any]:
        """What to send now to bring the client nearer to the view. Asked again without news, it is empty."""
        find = {LISTENER: view.listener, CLUSTER: view.cluster, ENDPOINTS: view.endpoints}
        responses = []
        for type_url, state in self._types.items():
            if not state.answered or not state.names:
                continue
            found: dict[str, Resource] = {}
            for name in sorted(state.names):
                resource = find[type_url](name)
                if resource is not None:
                    found[name] = resource
            told = {name: found[name].version if name in found else "" for name in state.names}
            if told != state.told:
                state.told, state.nonce, state.answered = told, str(next(self._nonces)), False
                responses.append(response(type_url, state.nonce, found.values()))
        return responses
