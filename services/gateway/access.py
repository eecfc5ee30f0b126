"""Who may call a task, and how often: Envoy's filters behind the routing filter, and what each route says to them.

A caller shows an API key in the metadata `x-api-key`, or a token (JWT) in `authorization: Bearer <token>`. A task whose
configuration names clients or a token provider is closed to everybody else; the others stay open, as do health and
reflection. The filters are in the chain only where some task needs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.gateway import access_keys
from services.gateway.table import Edge, JwtProvider, Table, Task
from services.gateway.xds_messages import message_class, pack

Json = dict[str, Any]
Files = Mapping[Path, bytes]

KEY_HEADER = "x-api-key"
CLIENT_HEADER = "x-dl-client"  # who called, told to the instances: the key's client or the token's subject
EVERYBODY = "-"  # the client that callers of open tasks are taken for
ANY_CLIENT = "*"  # in a task's clients: everybody who has a key

# Names of the filters in the chain, by which routes address them.
JWT, API_KEY, QPS = "jwt", "api_key", "qps"

_HTTP = "type.googleapis.com/envoy.extensions.filters.http."

# Of the connection manager: a caller cannot say itself who it is.
EARLY: Json = {
    "early_header_mutation_extensions": [
        {
            "name": "client",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation"
                ".header_mutation.v3.HeaderMutation",
                "mutations": [{"remove": CLIENT_HEADER}],
            },
        }
    ]
}
_KeyPerRoute = message_class("envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute")
_JwtPerRoute = message_class("envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig")
_LocalRateLimit = message_class("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit")


def filters(table: Table, files: Files) -> list[Json]:
    """The filters that this table needs, in order, in Envoy's JSON form. They stand behind the routing filter."""
    tasks = table.tasks.values()
    found = []
    if any(task.jwt for task in tasks):
        found.append(_jwt(table.edge.jwt, files))
    if table.edge.api_keys is not None and any(task.clients is not None for task in tasks):
        found.append(_api_keys(table.edge.api_keys, files))
    # After the two above: calls that are refused for who makes them take nothing from a task's share.
    if any(task.max_qps is not None for task in tasks):
        found.append(_filter(QPS, "local_ratelimit.v3.LocalRateLimit", stat_prefix=QPS))
    return found


def closed(table: Table) -> bool:
    """Some task asks who the caller is."""
    return any(task.jwt or task.clients is not None for task in table.tasks.values())


def per_route(task: Task, edge: Edge) -> dict[str, Any]:
    """What the task's route says to the filters: values of `typed_per_filter_config` by name, often none."""
    found: dict[str, Any] = {}
    if task.jwt:
        found[JWT] = pack(_JwtPerRoute(requirement_name=task.jwt))
    if task.clients is not None:
        # Without an entry every client that has a key is allowed.
        allowed = () if ANY_CLIENT in task.clients else sorted(task.clients)
        closed = _KeyPerRoute(allowed_clients=allowed)
        # Repeated from the filter: where a route says nothing here, Envoy forwards nothing.
        closed.forwarding.header, closed.forwarding.hide_credentials = CLIENT_HEADER, True
        found[API_KEY] = pack(closed)
    if task.max_qps is not None:
        found[QPS] = pack(_qps(task.max_qps, task.burst or task.max_qps))
    return found


def per_host(edge: Edge) -> dict[str, Any]:
    """What holds for every route that says nothing itself: values of the virtual host's `typed_per_filter_config`."""
    if edge.api_keys is None:
        return {}
    # The filter refuses whoever has no key, and a route can change where it looks for one but not switch it off.
    # So open tasks have a key that every gRPC call carries: it is a POST.
    everybody = _KeyPerRoute()
    everybody.key_sources.add(header=":method")
    everybody.credentials.add(key="POST", client=EVERYBODY)
    everybody.forwarding.SetInParent()
    return {API_KEY: pack(everybody)}


def headers_to_remove(edge: Edge) -> list[str]:
    """The virtual host's `request_headers_to_remove`: no instance sees a key, whether its task asked for one or not."""
    return [] if edge.api_keys is None else [KEY_HEADER]


def _qps(rate: int, burst: int) -> Any:
    limit = _LocalRateLimit(stat_prefix=QPS, rate_limited_as_resource_exhausted=True)
    bucket = limit.token_bucket
    bucket.max_tokens, bucket.tokens_per_fill.value = burst, rate
    bucket.fill_interval.FromSeconds(1)  # tokens come evenly over it, not all at once
    for part in (limit.filter_enabled, limit.filter_enforced):
        part.default_value.numerator = 100
    added = limit.response_headers_to_add.add(append_action="OVERWRITE_IF_EXISTS_OR_ADD")
    added.header.key, added.header.value = "x-dl-limit", str(rate)
    return limit


def _api_keys(path: Path, files: Files) -> Json:
    clients, _ = access_keys.read(files[path], path)
    return _filter(
        API_KEY,
        "api_key_auth.v3.ApiKeyAuth",
        credentials=[{"key": key, "client": client} for key, client in clients.items()],
        key_sources=[{"header": KEY_HEADER}],
        forwarding={"header": CLIENT_HEADER, "hide_credentials": True},
    )


def _jwt(providers: Mapping[str, JwtProvider], files: Files) -> Json:
    return _filter(
        JWT,
        "jwt_authn.v3.JwtAuthentication",
        providers={
            provider.name: {
                "issuer": provider.issuer,
                "audiences": list(provider.audiences),
                "local_jwks": {"inline_string": files[provider.jwks].decode("utf-8", "replace")},
                "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
                "forward": False,  # a token is for us, and an instance could use it elsewhere
                "claim_to_headers": [{"header_name": CLIENT_HEADER, "claim_name": "sub"}],
                # Most calls of a caller carry the same token: verified once, looked up from then on.
                "jwt_cache_config": {"jwt_cache_size": 1000},
            }
            for provider in providers.values()
        },
        requirement_map={name: {"provider_name": name} for name in providers},
    )


def _filter(name: str, type_name: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": _HTTP + type_name, **fields}}
