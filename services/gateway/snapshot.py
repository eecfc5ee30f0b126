"""Routing table, addresses and weights -> Envoy's resources. Pure: same input, same bytes.

Clusters and routes have modules of their own; here are the load assignments, and what belongs together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.message import Message

from libs.balancing.endpoint import Endpoint
from services.gateway.bootstrap import LIVE_RUNTIME
from services.gateway.listener_limits import live_runtime
from services.gateway.observe import COLLECTOR
from services.gateway.snapshot_clusters import GROUP, SOCKET_MATCH, cluster
from services.gateway.snapshot_routes import routes
from services.gateway.table import HealthCheck, Pool, Table
from services.gateway.xds_messages import message_class, pack

_ClusterLoadAssignment = message_class("envoy.config.endpoint.v3.ClusterLoadAssignment")

# A fallback takes the share of the calls that is missing once fewer than half of a pool's instances are healthy: the
# factor by which Envoy multiplies the healthy share, in percent. Its own 140 would take calls away as soon as one
# instance of three is down, which a restart of every instance in turn must not.
_OVERPROVISIONING = 200

# A pool's instances with their configured weights: one group, or more where another pool stands in for it, in
# order of preference.
Groups = Sequence[Mapping[Endpoint, int]]
Weights = Mapping[str, Mapping[Endpoint, int]]


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource, ready to send. Its version is a hash: equal content is never resent."""

    body: Any  # google.protobuf.Any
    version: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the data plane is to hold. Replaced whole, never changed."""

    clusters: Mapping[str, Resource] = field(default_factory=dict)
    endpoints: Mapping[str, Resource] = field(default_factory=dict)
    routes: Resource | None = None
    listeners: Mapping[str, Resource] = field(default_factory=dict)
    secrets: Mapping[str, Resource] = field(default_factory=dict)
    runtime: Mapping[str, Resource] = field(default_factory=dict)

    def with_endpoints(self, changed: Mapping[str, Resource]) -> Snapshot:
        """The same snapshot with some pools' endpoints replaced."""
        return replace(self, endpoints={**self.endpoints, **changed})


class Group(Mapping[Endpoint, int]):
    """Instances with their configured weights. `hostnames` are the names that they were found by, where it matters."""

    def __init__(self, members: Mapping[Endpoint, int], hostnames: Mapping[Endpoint, str]) -> None:
        self._members = members
        self.hostnames = hostnames

    def __getitem__(self, endpoint: Endpoint) -> int:
        return self._members[endpoint]

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def resolve(table: Table, addresses: Mapping[str, Sequence[str]]) -> dict[str, list[Group]]:
    """Each pool's groups by its name: host names replaced by all of their addresses, each instance once.

    A name that `addresses` lacks has none: its pool has fewer instances until it resolves.
    """
    own = {name: _members(pool, addresses) for name, pool in table.pools.items()}
    return {name: [own[pool.name] for pool in table.chain(name)] for name in table.pools}


def _members(pool: Pool, addresses: Mapping[str, Sequence[str]]) -> Group:
    found: dict[Endpoint, int] = {}
    names: dict[Endpoint, str] = {}
    by_name = pool.tls is not None and not pool.tls.server_name  # their certificates are for the names
    for endpoint, weight in pool.members.items():
        hosts = addresses.get(endpoint.host, ()) if endpoint.is_name else (endpoint.host,)
        for host in hosts:
            instance = Endpoint(host, endpoint.port)
            found.setdefault(instance, weight)
            if by_name:
                names.setdefault(instance, endpoint.host)
    return Group(found, names)


def build(
    table: Table,
    pools: Mapping[str, Groups],
    weights: Weights,
    *,
    listeners: Mapping[str, Message] | None = None,
    secrets: Mapping[str, Message] | None = None,
    collector: Message | None = None,
    health: Mapping[str, HealthCheck] | None = None,
) -> Snapshot:
    """The snapshot of a table. A pool that is missing has no instance; a weight that is, the configured one.

    `collector` is the cluster that takes spans; `health` is what `auto` was found to mean for a pool, else HTTP2.
    """
    checks = health or {}
    clusters = {
        name: resource(cluster(pool, table.chain(name)[1:], checks.get(name, HealthCheck.HTTP2)))
        for name, pool in table.pools.items()
    }
    if collector is not None:
        clusters[COLLECTOR] = resource(collector)
    return Snapshot(
        clusters=clusters,
        endpoints={
            name: load_assignment(name, pools.get(name, ()), weights.get(name, {})) for name in table.pools
        },
        routes=resource(routes(table)),
        listeners={name: resource(message) for name, message in (listeners or {}).items()},
        secrets={name: resource(message) for name, message in (secrets or {}).items()},
        runtime={LIVE_RUNTIME: resource(live_runtime(table.edge))},
    )


def load_assignment(cluster: str, groups: Groups, weights: Mapping[Endpoint, int]) -> Resource:
    """One pool's instances as EDS has them: the dynamic weights where there are any, else the configured ones.

    The second group is used while too few of the first are healthy, and so on.
    """
    assignment = _ClusterLoadAssignment(cluster_name=cluster)
    if len(groups) > 1:
        assignment.policy.overprovisioning_factor.value = _OVERPROVISIONING
    for priority, members in enumerate(groups if any(groups) else ()):
        # The locality must not be empty: load reports are kept by locality.
        group = assignment.endpoints.add(priority=priority)
        group.locality.zone = "default"
        group.load_balancing_weight.value = 1
        hostnames = members.hostnames if isinstance(members, Group) else {}
        for endpoint, configured in members.items():
            member = group.lb_endpoints.add()
            address = member.endpoint.address.socket_address
            address.address, address.port_value = endpoint.host, endpoint.port
            member.endpoint.hostname = hostnames.get(endpoint, "")
            member.load_balancing_weight.value = weights.get(endpoint, configured)
            if priority:
                member.metadata.filter_metadata[SOCKET_MATCH][GROUP] = str(priority)
    return resource(assignment)


def resource(message: Message) -> Resource:
    """The message, ready to send."""
    body = pack(message)
    return Resource(body, hashlib.blake2b(body.value, digest_size=8).hexdigest())
