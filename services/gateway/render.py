"""What Envoy is told for a configuration, as one JSON document: equal files give equal text. Pure.

Nothing secret is in it: certificates and keys of TLS are named, not shown, and API keys are blotted out. Host names
stand where a running gateway has their addresses.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from libs.balancing.endpoint import Endpoint
from services.gateway.access import EVERYBODY
from services.gateway.bootstrap import BootstrapOptions, bootstrap
from services.gateway.listener import ListenerOptions, listener
from services.gateway.names import LISTENER
from services.gateway.observe import collector_cluster
from services.gateway.snapshot import Resource, Snapshot, build, resolve
from services.gateway.table import Edge, Table
from services.gateway.tls import secrets
from services.gateway.xds_messages import POOL, message_class

Json = dict[str, Any]

HIDDEN = "(hidden)"
_FILE = b"\0file:"  # stands in for the content of a TLS file, so that no key comes near the output


def render(table: Table, files: Mapping[Path, bytes], options: ListenerOptions) -> Json:
    """Every resource by its kind, sorted by name, as the control plane serves it, and Envoy's bootstrap."""
    snapshot = _snapshot(table, files, options)
    return {
        "bootstrap": bootstrap(BootstrapOptions("control.sock", "envoy.sock")),
        "clusters": _all(snapshot.clusters),
        "endpoints": _all(snapshot.endpoints),
        "listeners": _all(snapshot.listeners),
        "runtime": _all(snapshot.runtime),
        "routes": [] if snapshot.routes is None else [_json(snapshot.routes)],
        "secrets": _all(snapshot.secrets),
    }


def render_static(
    table: Table, files: Mapping[Path, bytes], options: ListenerOptions, admin: Endpoint
) -> Json:
    """All of it as one bootstrap with which Envoy serves alone, without live weights and without the control plane's
    own services (health by task, reflection). Envoy looks the host names up itself."""
    parts = render(table, files, options)
    assignments = {found["cluster_name"]: found for found in parts["endpoints"]}
    for cluster in parts["clusters"]:
        if cluster["type"] == "EDS":
            del cluster["eds_cluster_config"]
            cluster |= {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"}  # as our own resolver does
            cluster["load_assignment"] = assignments[cluster["name"]]
    layers = parts["bootstrap"]["layered_runtime"]["layers"]
    (routes,) = parts["routes"]
    # Of the gateway's own services, and of tasks that are not there: both lead to clusters that nobody serves.
    routes["validate_clusters"] = False
    return {
        "node": parts["bootstrap"]["node"],
        "admin": {"address": {"socket_address": {"address": admin.host, "port_value": admin.port}}},
        "overload_manager": parts["bootstrap"]["overload_manager"],
        "layered_runtime": {"layers": [_fixed(layer, parts["runtime"]) for layer in layers]},
        "static_resources": {
            "clusters": _without_ads(parts["clusters"], routes),
            "listeners": _without_ads(parts["listeners"], routes),
            "secrets": parts["secrets"],
        },
    }


def _fixed(layer: Json, runtime: list[Json]) -> Json:
    """A layer of Envoy's runtime as it is now."""
    live = {found["name"]: found["layer"] for found in runtime}
    return {"name": layer["name"], "static_layer": live[layer["name"]]} if layer["name"] in live else layer


def one_task(table: Table, task_id: int) -> Table:
    """The table of one task and of the pools that it needs. Raises KeyError."""
    task = table.tasks[task_id]
    pools = {pool.name: pool for name in task.pools() for pool in table.chain(name)}
    return Table({task_id: task}, pools, table.edge)


def _snapshot(table: Table, files: Mapping[Path, bytes], options: ListenerOptions) -> Snapshot:
    shown = _shown_files(table.edge, files)
    stand_ins = {path: _FILE + str(path).encode() for path in files}
    tracing = table.edge.tracing
    collector = None if tracing is None else collector_cluster(table.edge, [tracing.collector.host])
    if collector is not None and tracing is not None and tracing.collector.is_name:
        collector.type = collector.STRICT_DNS
    return build(
        table,
        resolve(table, {name: [name] for name in table.names()}),
        {},
        listeners={LISTENER: listener(options, table, shown)},
        secrets=secrets(table.edge, stand_ins, table.pools.values()),
        collector=collector,
    )


def _shown_files(edge: Edge, files: Mapping[Path, bytes]) -> dict[Path, bytes]:
    """What the listener is made of: public keys and, to be blotted out, API keys."""
    wanted = {provider.jwks for provider in edge.jwt.values()} | {edge.api_keys}
    return {path: content for path, content in files.items() if path in wanted}


def _all(resources: Mapping[str, Resource]) -> list[Json]:
    return [_json(resources[name]) for name in sorted(resources)]


def _json(resource: Resource) -> Json:
    name = resource.body.type_url.rpartition("/")[2]
    message = message_class(name).FromString(resource.body.value)
    document: Json = json_format.MessageToDict(
        message, preserving_proto_field_name=True, descriptor_pool=POOL
    )
    return _walk(document, _discreet)  # type: ignore[no-any-return]


def _walk(value: Any, change: Callable[[Json], Json]) -> Any:
    """The same value with every object in it changed, the innermost first."""
    if isinstance(value, dict):
        return change({key: _walk(inner, change) for key, inner in value.items()})
    return [_walk(inner, change) for inner in value] if isinstance(value, list) else value


def _discreet(found: Json) -> Json:
    """Names files instead of their content, and hides API keys."""
    if found.keys() == {"key", "client"} and found["client"] != EVERYBODY:
        return found | {"key": f"{HIDDEN} {found['client']}'s key"}
    if "inline_bytes" in found:
        content = base64.b64decode(found["inline_bytes"])
        if content.startswith(_FILE):
            return {"filename": content.removeprefix(_FILE).decode()}
    return found


def _without_ads(value: Any, routes: Json) -> Any:
    """Secrets by their bare names, which are then looked for in the file; routes where they were asked for."""

    def change(found: Json) -> Json:
        if "rds" in found:
            return {key: inner for key, inner in found.items() if key != "rds"} | {"route_config": routes}
        return {key: inner for key, inner in found.items() if key != "sds_config"}

    return _walk(value, change)
