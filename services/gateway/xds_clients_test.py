from __future__ import annotations

from typing import Any

import pytest

from libs.balancing.endpoint import Endpoint
from services.gateway.discovery_types import CLUSTER, ENDPOINTS, LISTENER
from services.gateway.snapshot import resolve
from services.gateway.table import Pool, Share, Table, Task
from services.gateway.xds_clients import ClientView, task_of
from services.gateway.xds_clients_stream import ClientStream
from services.gateway.xds_messages import message_class

A, B = Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 1)
Request = message_class("envoy.service.discovery.v3.DiscoveryRequest")
Assignment = message_class("envoy.config.endpoint.v3.ClusterLoadAssignment")
Listener = message_class("envoy.config.listener.v3.Listener")
Manager = message_class("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager")


def table(**task: Any) -> Table:
    pools = {"p": Pool("p", {A: 100, B: 50}), "c": Pool("c", {B: 100})}
    return Table({69: Task(69, 100, "p", **task)}, pools)


def view(found: Table, weights: dict[Endpoint, int] | None = None) -> ClientView:
    return ClientView(found, resolve(found, {}), lambda pool: weights or {})


def routes(found: ClientView, name: str) -> Any:
    resource = found.listener(name)
    assert resource is not None
    manager = Manager()
    Listener.FromString(resource.body.value).api_listener.api_listener.Unpack(manager)
    return manager.route_config


@pytest.mark.parametrize("name", ["69", "task-69", "textcnn-69", "a-b-069"])
def test_names_of_a_task(name: str) -> None:
    found = task_of(name, table())
    assert found is not None
    assert found.task_id == 69


@pytest.mark.parametrize("name", ["", "70", "textcnn", "69-", "-", "x" * 5000, "99999999999999999999"])
def test_names_of_none_lead_nowhere(name: str) -> None:
    assert task_of(name, table()) is None
    assert not routes(view(table()), name).virtual_hosts


@pytest.mark.parametrize(
    "closed", [{"jwt": "p"}, {"clients": frozenset({"a"})}, {"clients": frozenset()}, {"max_qps": 5}]
)
def test_tasks_that_the_listener_guards_are_not_offered_past_it(closed: dict[str, Any]) -> None:
    assert task_of("69", table(**closed)) is None


def test_a_canary_has_its_share_and_each_instance_its_weight() -> None:
    found = view(table(canary=Share("c", 25)), {A: 7})
    (host,) = routes(found, "69").virtual_hosts
    action = host.routes[0].route
    assert [(c.name, c.weight.value) for c in action.weighted_clusters.clusters] == [
        ("p", 750_000),
        ("c", 250_000),
    ]
    resource = found.endpoints("p")
    assert resource is not None
    localities = Assignment.FromString(resource.body.value).endpoints
    assert [(x.locality.sub_zone, x.load_balancing_weight.value) for x in localities] == [
        ("10.0.0.1:1", 7),
        ("10.0.0.2:1", 50),
    ]
    assert found.cluster("nothing") is found.endpoints("nothing") is None


class Client:
    """Plays gRPC on one stream."""

    def __init__(self) -> None:
        self.stream = ClientStream()
        self.nonces: dict[str, str] = {}

    def ask(self, type_url: str, *names: str, error: str = "") -> str | None:
        request = Request(
            type_url=type_url, resource_names=names, response_nonce=self.nonces.get(type_url, "")
        )
        if error:
            request.error_detail.message = error
        return self.stream.on_request(request)

    def take(self, found: ClientView) -> list[tuple[str, int]]:
        """What was sent: type and number of resources."""
        sent = []
        for response in self.stream.outbox(found):
            self.nonces[response.type_url] = response.nonce
            sent.append((response.type_url, len(response.resources)))
        return sent


def test_a_client_is_sent_what_it_asks_for_and_again_when_it_changes() -> None:
    client, first = Client(), view(table())
    assert client.take(first) == []
    client.ask(LISTENER, "69")
    assert client.take(first) == [(LISTENER, 1)]
    assert client.take(first) == []
    client.ask(LISTENER, "69")
    client.ask(CLUSTER, "p", "gone")
    client.ask(ENDPOINTS, "p")
    assert client.take(first) == [(CLUSTER, 1), (ENDPOINTS, 1)]
    client.ask(CLUSTER, "p", "gone")
    client.ask(ENDPOINTS, "p")
    assert client.take(view(table())) == []
    assert client.take(view(table(), {A: 1})) == [(ENDPOINTS, 1)]


def test_all_listeners_are_in_an_answer_that_a_new_name_brings() -> None:
    client, found = Client(), view(table())
    client.ask(LISTENER, "69")
    client.take(found)
    client.ask(LISTENER, "69", "a-69")
    assert client.take(found) == [(LISTENER, 2)]
    client.ask(LISTENER, "69")
    assert client.take(found) == []
    client.ask(LISTENER, "69", "a-69")
    assert client.take(found) == [(LISTENER, 2)]


def test_a_rejection_is_told_once_and_nothing_is_sent_again_until_it_changes() -> None:
    client, found = Client(), view(table())
    client.ask(ENDPOINTS, "p")
    client.take(found)
    assert client.ask(ENDPOINTS, "p", error="no good") == "ClusterLoadAssignment: no good"
    assert client.take(found) == []
    assert client.take(view(table(), {A: 1})) == [(ENDPOINTS, 1)]
    client.nonces[ENDPOINTS] = "old"
    assert client.ask(ENDPOINTS, "p", error="no good") is None
