"""Tasks -> Envoy's routes: where each task's calls go, how long they may take, and what is tried again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.gateway import access, web
from services.gateway.bootstrap import OWN_CLUSTER
from services.gateway.methods import CONTROL, TASK_HEADER
from services.gateway.names import ROUTES
from services.gateway.table import Share, Table, Task
from services.gateway.xds_messages import message_class, parse

INSTANCE_HEADER = "x-dl-instance"
SHARES = 1_000_000  # parts of the whole: a share is told to Envoy in whole ones

_HeaderInput = message_class("envoy.type.matcher.v3.HttpRequestHeaderMatchInput")
_PreviousPriorities = message_class(
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
)
_RetryPolicy = message_class("envoy.config.route.v3.RetryPolicy")
_Route = message_class("envoy.config.route.v3.Route")
_RouteConfiguration = message_class("envoy.config.route.v3.RouteConfiguration")

_TYPE = "type.googleapis.com/"

# Nothing was processed, or nothing of it was answered: predictions change nothing, so a second instance
# may be asked. `unavailable` and `cancelled` are what a backend that shuts down says, in a reply that has
# no message, to calls that it does not finish. When the caller cancels there is nobody to retry for.
_RETRY_POLICY = parse(
    "envoy.config.route.v3.RetryPolicy",
    {
        "retry_on": "connect-failure,refused-stream,reset,unavailable,cancelled",
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        # The dead one has the fewest calls in flight and wins 15 draws of 16 in a pool of two. Where weights differ
        # Envoy follows a schedule instead, in which it comes (calls in flight at the other + 1)^2 times in a row.
        # Each look moves the schedule on, so that only the first of many retries is long; a look takes 0.1 us.
        "host_selection_retry_max_attempts": 4096,
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.005s"},
    },
)
_RETRIES = 1  # of the virtual host, for every task that asks for no other number


def routes(table: Table) -> Any:
    """The route configuration of every task."""
    found = _RouteConfiguration(name=ROUTES)
    host = found.virtual_hosts.add(name="tasks", domains=["*"])
    host.retry_policy.CopyFrom(_retries(_RETRIES))
    for name, said in {**access.per_host(table.edge), **web.per_host(table.edge)}.items():
        host.typed_per_filter_config[name].CopyFrom(said)
    host.request_headers_to_remove.extend(access.headers_to_remove(table.edge))
    _exact_map(host.matcher, {str(t.task_id): _task_route(t, table) for t in table.tasks.values()})
    return found


def _retries(count: int, *, fallback: bool = False) -> Any:
    """With a fallback the last attempt goes there: calls fail before it is known that all of a pool is down."""
    policy = _RetryPolicy()
    if count:  # a policy that names no reason retries nothing
        policy.CopyFrom(_RETRY_POLICY)
        policy.num_retries.value = count
    if count and fallback:
        policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        policy.retry_priority.typed_config.Pack(_PreviousPriorities(update_frequency=count))
    return policy


def _exact_map(matcher: Any, routes: Mapping[str, Any]) -> None:
    """One hash lookup of the task header, however many tasks there are."""
    tree = matcher.matcher_tree
    tree.input.name = "task"
    tree.input.typed_config.Pack(_HeaderInput(header_name=TASK_HEADER))
    for key, route in routes.items():
        _act(tree.exact_match_map.map[key].action, route)
    _act(tree.exact_match_map.map[CONTROL].action, _control_route())
    _act(matcher.on_no_match.action, _unknown_route())


def _act(action: Any, route: Any) -> None:
    action.name = "route"
    action.typed_config.Pack(route, deterministic=True)


def _task_route(task: Task, table: Table) -> Any:
    route = _route(task.pool)
    route.name = str(task.task_id)  # calls are counted by it
    for name, said in access.per_route(task, table.edge).items():
        route.typed_per_filter_config[name].CopyFrom(said)
    action = route.route
    # Deprecated upstream in favour of max_stream_duration, which bounds the caller's deadline as well but
    # does not tell the backend: with this one Envoy caps grpc-timeout, supplies it where the caller sent
    # none, and writes the time that is left into every attempt.
    action.max_grpc_timeout.FromMilliseconds(task.timeout_ms)
    action.timeout.FromMilliseconds(task.timeout_ms)
    if task.canary is not None:
        _split(action, task.pool, task.canary)
    if task.shadow is not None:
        _mirror(action, task.shadow)
    fallback = bool(table.pools[task.pool].fallback)
    if fallback or task.retries != _RETRIES:
        action.retry_policy.CopyFrom(_retries(task.retries, fallback=fallback))
    instance = route.response_headers_to_add.add(append_action="OVERWRITE_IF_EXISTS_OR_ADD")
    instance.header.key, instance.header.value = INSTANCE_HEADER, "%UPSTREAM_REMOTE_ADDRESS%"
    return route


def _split(action: Any, pool: str, canary: Share) -> None:
    """Each call is drawn anew."""
    parts = round(canary.percent / 100 * SHARES)
    for name, weight in ((pool, SHARES - parts), (canary.pool, parts)):
        action.weighted_clusters.clusters.add(name=name).weight.value = weight


def _mirror(action: Any, shadow: Share) -> None:
    mirror = action.request_mirror_policies.add(cluster=shadow.pool, disable_shadow_host_suffix_append=True)
    fraction = mirror.runtime_fraction.default_value
    fraction.numerator, fraction.denominator = round(shadow.percent / 100 * SHARES), fraction.MILLION


def _control_route() -> Any:
    route = _route(OWN_CLUSTER)
    route.name = CONTROL
    # Reflection and Health/Watch stream for as long as the caller likes.
    route.route.timeout.FromMilliseconds(0)
    return route


def _unknown_route() -> Any:
    # The way to no pool at all. A direct response would do as well, but Envoy's CORS filter looks only at routes that
    # lead somewhere, and a web page's preflight request names no task.
    route = _route("no-such-task")
    route.route.cluster_not_found_response_code = route.route.NOT_FOUND
    return route


def _route(cluster: str) -> Any:
    route = _Route()
    route.match.prefix = "/"
    route.route.cluster = cluster
    return route
