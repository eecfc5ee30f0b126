from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import PolicyName
from services.gateway import nodefile
from services.gateway.methods import CONTROL
from services.gateway.snapshot import Snapshot, build, load_assignment, resolve
from services.gateway.table import BackendTls, HealthCheck, Pool, Share, Table, Task
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


def cluster(snapshot: Snapshot, name: str) -> Any:
    return Cluster.FromString(snapshot.clusters[name].body.value)


def assignment(snapshot: Snapshot, name: str) -> Any:
    return LoadAssignment.FromString(snapshot.endpoints[name].body.value)


def with_pools(*pools: Pool, **of_task: Any) -> Table:
    """A table of these pools, and of task 69 on the first of them."""
    task = Task(69, 100, pools[0].name, **of_task)
    return Table({69: task}, {pool.name: pool for pool in pools})


ONE = {Endpoint("10.0.0.1", 1): 100}
TWO = {Endpoint("10.0.0.2", 1): 30}


@pytest.mark.parametrize(
    ("policy", "theirs"),
    [
        (PolicyName.ROUND_ROBIN, "ROUND_ROBIN"),
        (PolicyName.WEIGHTED, "ROUND_ROBIN"),
        (PolicyName.LEAST_REQUEST, "LEAST_REQUEST"),
        (PolicyName.PEAK_EWMA, "LEAST_REQUEST"),
    ],
)
def test_policies_are_envoys_nearest(policy: PolicyName, theirs: str) -> None:
    found = cluster(build(with_pools(Pool("p", ONE, policy)), {}, {}), "p")
    assert found.lb_policy == Cluster.LbPolicy.Value(theirs)


def test_limits_and_the_retry_budget_are_the_pools() -> None:
    pool = Pool("p", ONE, max_in_flight=20_000, max_queued=5, retry_budget_percent=0)
    (limits,) = cluster(build(with_pools(pool), {}, {}), "p").circuit_breakers.thresholds
    assert (limits.max_requests.value, limits.max_pending_requests.value) == (20_000, 5)
    assert limits.max_connections.value == 20_000
    assert limits.retry_budget.budget_percent.value == limits.retry_budget.min_retry_concurrency.value == 0


@pytest.mark.parametrize(
    ("said", "found_out", "kind"),
    [
        (HealthCheck.AUTO, None, "http_health_check"),
        (HealthCheck.AUTO, HealthCheck.GRPC, "grpc_health_check"),
        (HealthCheck.TCP, HealthCheck.GRPC, "tcp_health_check"),
        (HealthCheck.NONE, HealthCheck.GRPC, None),
    ],
)
def test_health_checks_are_as_said_or_found_out(
    said: HealthCheck, found_out: HealthCheck | None, kind: str | None
) -> None:
    health = {} if found_out is None else {"p": found_out}
    checks = cluster(
        build(with_pools(Pool("p", ONE, health_check=said)), {}, {}, health=health), "p"
    ).health_checks
    assert [check.WhichOneof("health_checker") for check in checks] == ([] if kind is None else [kind])


def test_a_fallback_is_a_second_priority_with_its_own_tls() -> None:
    table = with_pools(
        Pool("p", ONE, fallback="q"), Pool("q", TWO, tls=BackendTls(ca=Path("/ca"), server_name="m"))
    )
    snapshot = build(table, resolve(table, {}), {})
    found = assignment(snapshot, "p")
    assert [group.priority for group in found.endpoints] == [0, 1]
    assert found.policy.overprovisioning_factor.value == 200
    (match,) = cluster(snapshot, "p").transport_socket_matches
    assert match.name == "q"
    marked = found.endpoints[1].lb_endpoints[0].metadata.filter_metadata["envoy.transport_socket_match"]
    assert dict(marked) == dict(match.match)
    assert not cluster(snapshot, "p").HasField("transport_socket")
    assert cluster(snapshot, "q").HasField("transport_socket")
    assert not assignment(snapshot, "q").HasField("policy")


def test_instances_keep_their_names_where_certificates_are_for_names() -> None:
    table = with_pools(Pool("p", {Endpoint("a.svc", 1): 100}, tls=BackendTls(ca=Path("/ca"))))
    found = assignment(build(table, resolve(table, {"a.svc": ["10.0.0.1"]}), {}), "p")
    assert found.endpoints[0].lb_endpoints[0].endpoint.hostname == "a.svc"


def test_a_canary_takes_its_share_and_a_shadow_copies() -> None:
    table = with_pools(
        Pool("p", ONE), Pool("c", TWO), Pool("s", TWO), canary=Share("c", 0.5), shadow=Share("s", 25)
    )
    action = actions(build(table, {}, {}))["69"].route
    assert [(c.name, c.weight.value) for c in action.weighted_clusters.clusters] == [
        ("p", 995_000),
        ("c", 5_000),
    ]
    (mirror,) = action.request_mirror_policies
    assert (mirror.cluster, mirror.runtime_fraction.default_value.numerator) == ("s", 250_000)


def test_only_tasks_that_ask_for_it_carry_a_retry_policy() -> None:
    for retries, told in ((1, None), (0, ""), (3, "unavailable")):
        action = actions(build(with_pools(Pool("p", ONE), retries=retries), {}, {}))["69"].route
        assert action.HasField("retry_policy") == (told is not None)
        if told is not None:
            assert told in action.retry_policy.retry_on
            assert action.retry_policy.num_retries.value == retries


def test_the_last_attempt_goes_to_the_fallback() -> None:
    table = with_pools(Pool("p", ONE, fallback="q"), Pool("q", TWO), retries=2)
    policy = actions(build(table, {}, {}))["69"].route.retry_policy
    assert policy.num_retries.value == 2
    assert policy.retry_priority.name == "envoy.retry_priorities.previous_priorities"
    found = message_class("envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig")()
    assert policy.retry_priority.typed_config.Unpack(found)
    assert found.update_frequency == 2


def test_an_edit_of_weights_limits_of_a_task_or_endpoints_never_rebuilds_a_cluster() -> None:
    before = with_pools(Pool("p", ONE), Pool("c", TWO))
    after = with_pools(
        Pool("p", {**TWO, Endpoint("10.0.0.3", 1): 5}),
        Pool("c", ONE),
        canary=Share("c", 1),
        retries=0,
        max_qps=5,
    )
    assert build(before, resolve(before, {}), {}).clusters == build(after, resolve(after, {}), {}).clusters


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
