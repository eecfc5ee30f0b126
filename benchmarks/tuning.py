"""What each option of the gateway's Envoy costs or saves: CPU per call with it changed, less CPU per call as it is.

Starts a gateway, takes the configuration that it gives its Envoy, and runs copies of that Envoy, each with one thing
changed; then loads one after the other, in rounds, each round in another order.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import http.client
import json
import os
import random
import re
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks import load, servers
from benchmarks.servers import TASK, WPAI_PREDICT, Server
from benchmarks.tuning_options import AS_IS, OPTIONS, Config, Option

EPILOG = """\
The backends are two nghttpd, which echo in C. Every Envoy has one thread. CPU is read from the scheduler, in
nanoseconds. `us` is the median over the rounds of the difference to the gateway as it is in the same round, `%` that as
a part of the gateway's own cost, and `+-` half of the distance between the quartiles of those differences divided by
the root of the number of rounds: take nothing that is smaller than two of those for an effect. An option that Envoy
refuses is left out with a line that says why.
"""

PLAIN = "plain Envoy"


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
        entry["active_state"]["listener"] for entry in dumped(dump, "ListenersConfigDump")["dynamic_listeners"]
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
            part["route_config"] = routes[part.pop("rds")["route_config_name"]]
    del bootstrap["dynamic_resources"]
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
def variant(source: Original, option: Option, folder: Path) -> Iterator[Server]:
    """An Envoy like the gateway's with an option changed. Raises RuntimeError when Envoy refuses it."""
    config = copy.deepcopy(source.config)
    option.change(config)
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


def cpu_ns(pid: int) -> int:
    """What the scheduler has given to a process's threads."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # ended meanwhile
            total += int((thread / "schedstat").read_text().split()[0])
    return total


def cost_us(server: Server, option: Option, body: Path, calls: int, in_flight: int) -> float:
    """CPU microseconds per call. Raises RuntimeError when a call fails."""
    connections = min(4, in_flight)
    headers = ["content-type: application/grpc", "te: trailers", *option.headers]
    command = [
        "h2load", f"http://{server.address}{option.path or WPAI_PREDICT}", "-d", str(body), "-t", "1",
        "-c", str(connections), "-m", str(in_flight // connections), "-n", str(calls),
        *(part for header in headers for part in ("-H", header)),
    ]  # fmt: skip
    before = cpu_ns(server.pid)
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    spent = cpu_ns(server.pid) - before
    if not re.search(rf"status codes: {calls} 2xx", output):
        raise RuntimeError(f"{' '.join(command)} failed:\n{output}")
    return spent / calls / 1000


def check(server: Server, option: Option, body: bytes) -> None:
    """One call by a real client: h2load would take a gRPC error for success. Raises grpc.RpcError."""
    metadata = [tuple(header.split(": ", 1)) for header in option.headers]
    with grpc.insecure_channel(server.address) as channel:
        echo = channel.unary_unary(option.path or WPAI_PREDICT)(body, timeout=10, metadata=metadata)
    if echo != body:
        raise RuntimeError("the echo differs")


@dataclass(slots=True)
class Measured:
    option: Option
    server: Server
    costs: list[float] = field(default_factory=list)


def spread(values: Sequence[float]) -> float:
    """How far the median of such values may be off."""
    if len(values) < 2:
        return float("inf")
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / len(values) ** 0.5


def rows(measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    base = next(m for m in measured if m.option is AS_IS)
    whole = statistics.median(base.costs)
    found = []
    for m in measured:
        differences = [a - b for a, b in zip(m.costs, base.costs, strict=True)]
        cost = statistics.median(differences)
        cells = (f"{statistics.median(m.costs):.1f}",)
        if m is not base:
            cells += (f"{cost:+.2f}", f"{spread(differences):.2f}", f"{cost / whole * 100:+.1f}")
        found.append((m.option.name, *cells, *[""] * (4 - len(cells))))
    return found


def compare(options: argparse.Namespace, chosen: Sequence[Option]) -> list[tuple[str, ...]]:
    rng = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        backends = stack.enter_context(servers.echo_backends())
        nodes = folder / "nodes.txt"
        nodes.write_text(f"{TASK}=5000," + ",".join(b.address for b in backends) + "\n")
        command = shlex.split(options.gateway) if options.gateway else [sys.executable, str(options.dist / "gateway.pex")]
        gateway = stack.enter_context(_gateway(command, nodes))
        source = original(gateway.pid)
        measured = []
        plain = stack.enter_context(servers.plain_envoy_at(source.program, backends, 1))
        measured.append(Measured(Option(PLAIN), plain))
        for number, option in enumerate(chosen):
            try:
                server = stack.enter_context(variant(source, option, folder / str(number)))
                check(server, option, servers.message(options.size))
            except (RuntimeError, LookupError, grpc.RpcError) as error:
                print(f"{option.name}: left out: {error}", file=sys.stderr)
                continue
            measured.append(Measured(option, server))
        body = folder / "body"
        body.write_bytes(load.frame(servers.message(options.size)))
        for m in measured:
            cost_us(m.server, m.option, body, options.calls // 4, options.in_flight)  # connections, caches
        for _ in range(options.rounds):
            for m in rng.sample(measured, len(measured)):
                m.costs.append(cost_us(m.server, m.option, body, options.calls, options.in_flight))
        return rows(measured)


@contextlib.contextmanager
def _gateway(command: list[str], nodes: Path) -> Iterator[Server]:
    process = subprocess.Popen(
        [*command, "serve", "--nodes", str(nodes), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--concurrency", "1"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("READY "):
            raise RuntimeError("the gateway did not start")
        yield Server(line.split()[1], process.pid)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tuning", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("option", nargs="*", help="names of options to try, or parts of names [all]")
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument("--gateway", help="the gateway's command, where that is not DIST/gateway.pex")
    parser.add_argument("--size", type=int, default=256, help="of a message, bytes [%(default)s]")
    parser.add_argument("--rounds", type=int, default=15, help="[%(default)s]")
    parser.add_argument("--calls", type=int, default=6000, help="of an option in a round [%(default)s]")
    parser.add_argument("--in-flight", type=int, default=16, help="calls in flight [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of the order in a round [%(default)s]")
    options = parser.parse_args()
    load.require("h2load", "nghttpd")
    chosen = [o for o in OPTIONS if not options.option or any(part in o.name for part in options.option)]
    table = compare(options, [AS_IS, *chosen])
    title = f"CPU per call of {options.size} bytes, {options.in_flight} in flight ({load.machine()})"
    load.table(title, ("option", "us", "change", "+-", "%"), table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
