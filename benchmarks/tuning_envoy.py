"""Copies of the gateway's own Envoy, which need no gateway: for trying changes of its configuration."""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import load, servers
from benchmarks.servers import Server

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Original:
    """The gateway's Envoy: its program, its environment, and its configuration without anything dynamic."""

    program: str
    environment: dict[str, str]
    config: Config


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("envoy", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def admin(path: str, target: str) -> Any:
    with contextlib.closing(_UnixConnection(path)) as connection:
        connection.request("GET", target)
        return json.loads(connection.getresponse().read())


def dumped(dump: Any, kind: str) -> dict[str, Any]:
    """One part of a configuration dump. Raises LookupError."""
    for part in dump["configs"]:
        if part["@type"].endswith(f".{kind}"):
            found: dict[str, Any] = part
            return found
    raise LookupError(f"the configuration dump has no {kind}")


def original(pid: int) -> Original:
    """Reads all of it from the gateway's running Envoy."""
    envoy = load.find_child(pid, "envoy")
    arguments = Path(f"/proc/{envoy}/cmdline").read_text().split("\0")
    variables = Path(f"/proc/{envoy}/environ").read_text().rstrip("\0").split("\0")
    bootstrap = json.loads(Path(arguments[arguments.index("--config-path") + 1]).read_text())
    dump = admin(bootstrap["admin"]["address"]["pipe"]["path"], "/config_dump?include_eds")
    routes = {
        entry["route_config"]["name"]: entry["route_config"]
        for entry in dumped(dump, "RoutesConfigDump")["dynamic_route_configs"]
    }
    assignments = {
        entry["endpoint_config"]["cluster_name"]: entry["endpoint_config"]
        for entry in dumped(dump, "EndpointsConfigDump")["dynamic_endpoint_configs"]
    }
    (listener,) = (
        entry["active_state"]["listener"]
        for entry in dumped(dump, "ListenersConfigDump")["dynamic_listeners"]
    )
    static = bootstrap["static_resources"]
    static["listeners"] = [listener]
    static["clusters"] += [
        entry["cluster"] for entry in dumped(dump, "ClustersConfigDump")["dynamic_active_clusters"]
    ]
    for cluster in static["clusters"]:
        if cluster["name"] in assignments:
            del cluster["eds_cluster_config"]
            cluster |= {"type": "STATIC", "load_assignment": assignments[cluster["name"]]}
    for resource in [*static["listeners"], *static["clusters"], *routes.values(), *assignments.values()]:
        resource.pop("@type", None)  # a resource is an Any where it came from
    for part in _messages(static):
        if "rds" in part:
            part["route_config"] = copy.deepcopy(routes[part.pop("rds")["route_config_name"]])
    del bootstrap["dynamic_resources"]
    layers = bootstrap.get("layered_runtime", {}).get("layers", [])
    layers[:] = [layer for layer in layers if "rtds_layer" not in layer]
    environment = dict(variable.split("=", 1) for variable in variables if "=" in variable)
    return Original(os.readlink(f"/proc/{envoy}/exe"), environment, bootstrap)


def _messages(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for value in list(part.values()):
            yield from _messages(value)
    elif isinstance(part, list):
        for value in part:
            yield from _messages(value)


@contextlib.contextmanager
def variant(source: Original, change: Callable[[Config], None], folder: Path) -> Iterator[Server]:
    """An Envoy like the gateway's with something changed. Raises RuntimeError when Envoy refuses it."""
    config = copy.deepcopy(source.config)
    change(config)
    folder.mkdir()
    port = servers.free_port()
    config["admin"]["address"]["pipe"]["path"] = str(folder / "admin.sock")
    (listener,) = config["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    for part in _messages(config):
        # The file that the call log counts into is one Envoy's: each has a copy.
        value = part.get("value")
        if part.get("@type", "").endswith("StringValue") and isinstance(value, str) and Path(value).is_file():
            part["value"] = shutil.copy(value, folder)
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    command = [source.program, "--config-path", str(path), "--disable-hot-restart", "--log-level", "error"]
    checked = subprocess.run(
        [*command, "--mode", "validate"], env=source.environment, capture_output=True, text=True, timeout=30
    )
    if checked.returncode != 0:
        raise RuntimeError(checked.stderr.strip().splitlines()[-1])
    command += ["--concurrency", "1", "--skip-deprecated-logs"]
    with servers.running(command, port, **source.environment) as pid:
        yield Server(f"127.0.0.1:{port}", pid)
