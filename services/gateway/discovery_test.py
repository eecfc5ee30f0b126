from __future__ import annotations

from dataclasses import replace
from typing import Any

from services.gateway import nodefile
from services.gateway.discovery_stream import ROUTES_WAIT_S, Stream
from services.gateway.discovery_types import CLUSTER, ENDPOINTS, ROUTE
from services.gateway.snapshot import Snapshot, build, load_assignment, resolve
from services.gateway.xds_messages import message_class

Cluster = message_class("envoy.config.cluster.v3.Cluster")
DiscoveryRequest = message_class("envoy.service.discovery.v3.DiscoveryRequest")
LoadAssignment = message_class("envoy.config.endpoint.v3.ClusterLoadAssignment")


def snapshot_of(text: str) -> Snapshot:
    table = nodefile.parse(text.encode())
    return build(table, resolve(table, {}), {})


class Envoy:
    """Plays Envoy on one stream: subscribes, ACKs, asks for the endpoints of the clusters it was given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stream = Stream(lambda: self.now)
        self.log: list[tuple[str, list[str]]] = []
        self.clusters: set[str] = set()
        self.endpoints: dict[str, bytes] = {}
        self.nonces = dict.fromkeys((CLUSTER, ENDPOINTS, ROUTE), "")
        self.reject: set[str] = set()
        self.ask_endpoints = True

    def connect(self) -> None:
        self.send(CLUSTER, [])
        self.send(ROUTE, ["tasks"])

    def send(self, type_url: str, names: list[str], error: str = "") -> str | None:
        request = message_class("envoy.service.discovery.v3.DiscoveryRequest")(
            type_url=type_url, resource_names=names, response_nonce=self.nonces[type_url]
        )
        if error:
            request.error_detail.code, request.error_detail.message = 3, error
        return self.stream.on_request(request)

    def take(self, snapshot: Snapshot, rounds: int = 20) -> list[str]:
        """Exchanges messages until there is no more to say; returns the NACKs that were noticed."""
        noticed: list[str] = []
        for _ in range(rounds):
            responses = self.stream.outbox(snapshot)
            if not responses:
                return noticed
            for response in responses:
                noticed += self._apply(response)
        raise AssertionError("the exchange does not end")

    def _apply(self, response: Any) -> list[str]:
        self.nonces[response.type_url] = response.nonce
        kind = response.type_url
        if kind in self.reject:
            error = self.send(kind, self._names(kind), "no good")
            return [error] if error else []
        names: list[str] = []
        for resource in response.resources:
            name = _name(resource)
            names.append(name)
            if kind == ENDPOINTS:
                self.endpoints[name] = resource.value
        self.log.append((kind.rpartition(".")[2], sorted(names)))
        if kind == CLUSTER:
            fresh = set(names) != self.clusters
            self.clusters = set(names)
            self.endpoints = {n: v for n, v in self.endpoints.items() if n in self.clusters}
            self.send(CLUSTER, [])
            if fresh and self.ask_endpoints:
                self.send(ENDPOINTS, sorted(self.clusters))
        else:
            self.send(kind, self._names(kind))
        return []

    def _names(self, kind: str) -> list[str]:
        return {CLUSTER: [], ENDPOINTS: sorted(self.clusters), ROUTE: ["tasks"]}[kind]


def _name(resource: Any) -> str:
    url, value = resource.type_url, resource.value
    if url == CLUSTER:
        return str(message_class("envoy.config.cluster.v3.Cluster").FromString(value).name)
    if url == ENDPOINTS:
        return str(
            message_class("envoy.config.endpoint.v3.ClusterLoadAssignment").FromString(value).cluster_name
        )
    return "tasks"


ONE = snapshot_of("1=100,10.0.0.1:1\n")
TWO = snapshot_of("1=100,10.0.0.1:1\n2=100,10.0.0.2:1\n")


def connected(snapshot: Snapshot) -> Envoy:
    envoy = Envoy()
    envoy.connect()
    envoy.take(snapshot)
    envoy.log.clear()
    return envoy


def test_a_new_envoy_gets_clusters_then_endpoints_then_routes() -> None:
    envoy = Envoy()
    assert not envoy.stream.settled(TWO)
    envoy.connect()
    envoy.take(TWO)
    assert envoy.log == [
        ("Cluster", ["task-1", "task-2"]),
        ("ClusterLoadAssignment", ["task-1", "task-2"]),
        ("RouteConfiguration", ["tasks"]),
    ]
    assert envoy.stream.settled(TWO)
    assert envoy.stream.outbox(TWO) == []


def test_nothing_is_sent_before_there_is_a_table() -> None:
    envoy = Envoy()
    envoy.connect()
    assert envoy.stream.outbox(Snapshot()) == []


def test_a_new_task_has_its_endpoints_before_its_route() -> None:
    envoy = connected(ONE)
    envoy.take(TWO)
    assert [kind for kind, _ in envoy.log] == ["Cluster", "ClusterLoadAssignment", "RouteConfiguration"]
    assert envoy.log[1] == ("ClusterLoadAssignment", ["task-2"])


def test_a_removed_task_loses_its_route_before_its_cluster() -> None:
    envoy = connected(TWO)
    envoy.take(ONE)
    assert envoy.log == [("RouteConfiguration", ["tasks"]), ("Cluster", ["task-1"])]
    assert envoy.stream.settled(ONE)


def test_a_swapped_task_is_never_without_a_cluster() -> None:
    envoy = connected(ONE)
    envoy.take(snapshot_of("3=100,10.0.0.3:1\n"))
    assert envoy.log == [
        ("Cluster", ["task-1", "task-3"]),
        ("ClusterLoadAssignment", ["task-3"]),
        ("RouteConfiguration", ["tasks"]),
        ("Cluster", ["task-3"]),
    ]


def test_a_task_that_comes_back_gets_its_endpoints_again() -> None:
    envoy = connected(TWO)
    envoy.take(ONE)
    envoy.log.clear()
    envoy.take(TWO)
    assert ("ClusterLoadAssignment", ["task-2"]) in envoy.log


def test_a_moved_instance_or_a_weight_touches_only_its_pool() -> None:
    envoy = connected(TWO)
    table = nodefile.parse(b"1=100,10.0.0.1:1\n2=100,10.0.0.9:1\n")
    pools = resolve(table, {})
    envoy.take(build(table, pools, {}))
    assert envoy.log == [("ClusterLoadAssignment", ["task-2"])]
    envoy.log.clear()
    (endpoint,) = pools["task-1"][0]
    envoy.take(
        build(table, pools, {}).with_endpoints(
            {"task-1": load_assignment("task-1", pools["task-1"], {endpoint: 7})}
        )
    )
    assert envoy.log == [("ClusterLoadAssignment", ["task-1"])]


def test_a_timeout_touches_only_the_routes() -> None:
    envoy = connected(TWO)
    envoy.take(snapshot_of("1=100,10.0.0.1:1\n2=999,10.0.0.2:1\n"))
    assert envoy.log == [("RouteConfiguration", ["tasks"])]


def test_a_rejection_is_reported_once_and_not_sent_again_until_it_changes() -> None:
    envoy = connected(ONE)
    envoy.reject = {ROUTE}
    changed = snapshot_of("1=200,10.0.0.1:1\n")
    assert envoy.take(changed) == ["RouteConfiguration: no good"]
    assert not envoy.stream.settled(changed)
    assert envoy.stream.outbox(changed) == []
    envoy.reject = set()
    better = snapshot_of("1=300,10.0.0.1:1\n")
    assert envoy.take(better) == []
    assert envoy.stream.settled(better)


def test_a_rejected_route_keeps_the_clusters_that_envoys_old_routes_name() -> None:
    envoy = connected(ONE)
    envoy.reject = {ROUTE}
    envoy.take(snapshot_of("3=100,10.0.0.3:1\n"))
    assert envoy.clusters == {"task-1", "task-3"}


def test_routes_do_not_wait_for_ever_for_endpoints_that_nobody_asks_for() -> None:
    envoy = Envoy()
    envoy.ask_endpoints = False
    envoy.connect()
    envoy.take(ONE)
    assert [kind for kind, _ in envoy.log] == ["Cluster"]
    assert envoy.stream.next_wake() == ROUTES_WAIT_S
    envoy.now += ROUTES_WAIT_S
    envoy.take(ONE)
    assert [kind for kind, _ in envoy.log] == ["Cluster", "RouteConfiguration"]
    assert envoy.stream.next_wake() is None


def test_an_overtaken_answer_and_an_unknown_type_are_ignored() -> None:
    envoy = connected(ONE)
    stale = message_class("envoy.service.discovery.v3.DiscoveryRequest")(
        type_url=CLUSTER, response_nonce="nonsense"
    )
    stale.error_detail.message = "old"
    assert envoy.stream.on_request(stale) is None
    assert (
        envoy.stream.on_request(
            message_class("envoy.service.discovery.v3.DiscoveryRequest")(type_url="type.googleapis.com/x")
        )
        is None
    )
    assert envoy.stream.settled(ONE)


def test_a_pool_that_no_route_names_goes_without_new_routes() -> None:
    spare = replace(TWO, routes=ONE.routes)
    envoy = connected(spare)
    envoy.take(ONE)
    assert envoy.clusters == {"task-1"}
    assert envoy.stream.settled(ONE)
