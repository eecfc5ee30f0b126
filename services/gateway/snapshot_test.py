from __future__ import annotations

import time
from typing import Any

from libs.balancing.endpoint import Endpoint
from services.gateway import nodefile
from services.gateway.methods import CONTROL
from services.gateway.snapshot import Snapshot, build, load_assignment, resolve
from services.gateway.table import Table
from services.gateway.xds_messages import message_class

Cluster = message_class("envoy.config.cluster.v3.Cluster")
LoadAssignment = message_class("envoy.config.endpoint.v3.ClusterLoadAssignment")
Route = message_class("envoy.config.route.v3.Route")
RouteConfiguration = message_class("envoy.config.route.v3.RouteConfiguration")

TEXT = b"69=100,10.0.0.7:8500,10.0.0.8:8500\n39=1500,digits.svc:8866\n"


def table() -> Table:
    return nodefile.parse(TEXT)


def actions(snapshot: Snapshot) -> dict[str, Any]:
    assert snapshot.routes is not None
    routes = message_class("envoy.config.route.v3.RouteConfiguration").FromString(snapshot.routes.body.value)
    found: dict[str, Any] = {}
    for key, match in routes.virtual_hosts[0].matcher.matcher_tree.exact_match_map.map.items():
        found[key] = message_class("envoy.config.route.v3.Route")()
        match.action.typed_config.Unpack(found[key])
    return found


def test_names_become_all_of_their_addresses_each_once() -> None:
    pools = resolve(table(), {"digits.svc": ["10.1.0.1", "10.1.0.2", "10.1.0.1"]})
    assert pools["task-39"] == [{Endpoint("10.1.0.1", 8866): 100, Endpoint("10.1.0.2", 8866): 100}]
    assert resolve(table(), {})["task-39"] == [{}]


def test_two_names_of_one_address_are_one_instance() -> None:
    both = nodefile.parse(b"1=5,a:1,b:1,10.0.0.1:1")
    assert resolve(both, {"a": ["10.0.0.1"], "b": ["10.0.0.1"]})["task-1"] == [{Endpoint("10.0.0.1", 1): 100}]


def test_each_task_has_a_route_with_its_timeout() -> None:
    routes = actions(build(table(), resolve(table(), {}), {}))
    assert set(routes) == {"69", "39", CONTROL}
    assert routes["39"].route.cluster == "task-39"
    assert routes["39"].route.max_grpc_timeout.ToMilliseconds() == 1500
    assert routes["69"].route.max_grpc_timeout.ToMilliseconds() == 100


def test_an_edit_of_a_line_never_rebuilds_its_cluster() -> None:
    before = build(table(), resolve(table(), {}), {})
    edited = nodefile.parse(b"69=999,10.0.0.9:8500\n39=1,10.0.0.1:1\n")
    after = build(edited, resolve(edited, {}), {})
    assert {n: r.version for n, r in before.clusters.items()} == {
        n: r.version for n, r in after.clusters.items()
    }
    assert before.endpoints["task-69"].version != after.endpoints["task-69"].version


def test_clusters_are_named_and_use_http2_and_eds() -> None:
    cluster = message_class("envoy.config.cluster.v3.Cluster").FromString(
        build(table(), {}, {}).clusters["task-69"].body.value
    )
    assert cluster.name == "task-69"
    assert cluster.type == message_class("envoy.config.cluster.v3.Cluster").EDS
    assert (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" in cluster.typed_extension_protocol_options
    )
    assert cluster.outlier_detection.max_ejection_percent.value == 50


def test_weights_and_addresses_reach_the_load_assignment() -> None:
    one, two = Endpoint("10.0.0.7", 8500), Endpoint("fd00::1", 1)
    resource = load_assignment("task-69", [{one: 100, two: 30}], {one: 7})
    assignment = message_class("envoy.config.endpoint.v3.ClusterLoadAssignment").FromString(
        resource.body.value
    )
    first, second = assignment.endpoints[0].lb_endpoints
    assert first.load_balancing_weight.value == 7
    assert second.endpoint.address.socket_address.address == "fd00::1"
    assert second.load_balancing_weight.value == 30
    assert (
        not message_class("envoy.config.endpoint.v3.ClusterLoadAssignment")
        .FromString(load_assignment("task-69", [{}], {}).body.value)
        .endpoints
    )


def test_the_same_table_gives_the_same_versions() -> None:
    one, two = (build(table(), resolve(table(), {}), {}) for _ in range(2))
    assert one.routes is not None
    assert two.routes is not None
    assert one.routes.version == two.routes.version


def test_a_thousand_tasks_build_in_well_under_a_second() -> None:
    text = "".join(f"{i}=100,10.0.0.1:{i},10.0.0.2:{i},10.0.0.3:{i},10.0.0.4:{i}\n" for i in range(1, 1001))
    started = time.perf_counter()
    big = nodefile.parse(text.encode())
    snapshot = build(big, resolve(big, {}), {})
    assert len(snapshot.clusters) == 1000
    assert time.perf_counter() - started < 2.0  # 0.05 s on an idle core
