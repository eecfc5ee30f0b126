"""The resource types of discovery, and what one stream knows of one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from services.gateway.snapshot import Resource
from services.gateway.xds_messages import message_class

_DiscoveryResponse = message_class("envoy.service.discovery.v3.DiscoveryResponse")


_PREFIX = "type.googleapis.com/envoy.config."
CLUSTER = _PREFIX + "cluster.v3.Cluster"
ENDPOINTS = _PREFIX + "endpoint.v3.ClusterLoadAssignment"
ROUTE = _PREFIX + "route.v3.RouteConfiguration"
LISTENER = _PREFIX + "listener.v3.Listener"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
RUNTIME = "type.googleapis.com/envoy.service.runtime.v3.Runtime"


@dataclass(slots=True)
class Held:
    """One resource type on one stream."""

    subscribed: bool = False
    names: frozenset[str] = frozenset()
    sent: dict[str, Resource] = field(default_factory=dict)  # what the other side holds once it has answered
    nonce: str = ""  # of the last response
    answered: bool = True
    error: str = ""

    def holds(self, name: str, resource: Resource) -> bool:
        sent = self.sent.get(name)
        return sent is not None and sent.version == resource.version

    @property
    def idle(self) -> bool:
        return self.subscribed and self.answered


def response(type_url: str, nonce: str, resources: Iterable[Resource]) -> Any:
    """A DiscoveryResponse."""
    return _DiscoveryResponse(
        version_info=nonce,
        nonce=nonce,
        type_url=type_url,
        resources=[resource.body for resource in resources],
    )
