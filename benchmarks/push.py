"""What very many instances cost a gateway: memory and CPU at rest, and how long an edit takes until Envoy holds it."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load
from benchmarks.servers import free_port
from examples.quickstart.processes import Processes

EPILOG = """\
The instances are addresses of loopback on which nobody listens: health checks are made and refused. `CPU`: seconds of
the control plane and of Envoy from the edit until some seconds after it, less what they take at rest. Everything comes
from the node file; the gateway looks at the file twice a second, which is part of the time.
"""
REST_S, AFTER_S, LIVE_S = 5.0, 3.0, 60.0
PORTS = 8500
ROLES = ("control", "envoy", "supervisor")


@dataclass(frozen=True, slots=True)
class Shape:
    """So many tasks of so many instances each."""

    tasks: int
    each: int
    health_check: str


SHAPES = (
    Shape(1000, 10, "none"),
    Shape(1000, 10, "auto"),
    Shape(1, 10_000, "none"),
)


def address(number: int) -> str:
    """The `number`th of many addresses of loopback."""
    return f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}:{PORTS}"


def node_file(shape: Shape, first: int) -> str:
    """A node file whose instances begin at the `first` address."""
    return "".join(
        f"{task + 1}=100,{','.join(address(first + task * shape.each + i) for i in range(shape.each))}\n"
        for task in range(shape.tasks)
    )


def replace(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(file)


def below(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from below(int(child))


def roles(supervisor: int) -> dict[str, int]:
    """The process ids of a gateway by what they do."""
    found = {"supervisor": supervisor}
    for pid in list(below(supervisor))[1:]:
        program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        found.setdefault("envoy" if b"envoy" in program else "control", pid)
    return found


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


class Watched:
    """A running gateway, its files and its processes."""

    def __init__(self, admin: str, nodes: Path, supervisor: int) -> None:
        self._admin = admin
        self.nodes = nodes
        self.pids = roles(supervisor)

    def value(self, metric: str) -> float:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self._admin}/metrics", timeout=30) as page:
            found = re.search(rf"^{metric} (\S+)$", page.read().decode(), re.MULTILINE)
        if found is None:
            raise RuntimeError(f"the gateway exports no {metric}")
        return float(found[1])

    def cpu(self) -> dict[str, float]:
        return {role: cpu_s(pid) for role, pid in self.pids.items()}

    def rest(self) -> dict[str, float]:
        """Cores that each process takes while nothing happens."""
        before = self.cpu()
        time.sleep(REST_S)
        return {role: (after - before[role]) / REST_S for role, after in self.cpu().items()}

    def edit(self, text: str) -> tuple[float, float, dict[str, float]]:
        """Replaces the node file; seconds until Envoy holds all of it, seconds watched, CPU seconds meanwhile."""
        version, before = self.value("dl_gateway_config_version"), self.cpu()
        begun = time.monotonic()
        replace(self.nodes, text)
        while self.value("dl_gateway_config_version") <= version or not self.value(
            "dl_gateway_config_accepted"
        ):
            if time.monotonic() - begun > LIVE_S:
                raise RuntimeError(f"the edit was not live after {LIVE_S:g} s")
            time.sleep(0.05)
        live = time.monotonic() - begun
        time.sleep(AFTER_S)
        watched = time.monotonic() - begun
        return live, watched, {role: after - before[role] for role, after in self.cpu().items()}


def measure(shape: Shape, dist: Path, work: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A row of what a shape takes at rest, and one for each edit."""
    nodes, admin = work / "nodefile.txt", f"127.0.0.1:{free_port()}"
    nodes.write_text(node_file(shape, 0))
    config = work / "gateway.toml"
    config.write_text(f'nodes = "nodefile.txt"\n[defaults]\nhealth_check = "{shape.health_check}"\n')
    name = f"{shape.tasks} x {shape.each}, checks {shape.health_check}"
    with Processes(dist, work / "logs") as processes:
        gateway = processes.start(
            "gateway",
            "gateway",
            "serve",
            "--config",
            str(config),
            "--listen",
            "127.0.0.1:0",
            "--admin",
            admin,
        )
        began = time.monotonic()
        gateway.wait_ready()
        ready = time.monotonic() - began
        time.sleep(REST_S)
        watched = Watched(admin, nodes, gateway.pid)
        rest = watched.rest()
        at_rest = (name, f"{ready:.1f}", *(f"{rest[role]:.2f}" for role in ROLES))
        memory = tuple(f"{memory_mb(watched.pids[role]):.0f}" for role in ROLES)
        edits = []
        one_more = node_file(shape, 0).replace("1=100,", f"1=100,{address(200_000)},", 1)
        for what, text in (("one added", one_more), ("all exchanged", node_file(shape, 50_000))):
            live, watched_s, spent = watched.edit(text)
            own = (f"{max(0.0, spent[role] - rest[role] * watched_s):.2f}" for role in ROLES[:2])
            edits.append((f"{name}: {what}", f"{live:.1f}", *own))
    return (*at_rest, *memory), edits


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="push", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    options = parser.parse_args()
    rests, edits = [], []
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as work:
            rest, edited = measure(shape, options.dist.absolute(), Path(work))
        rests.append(rest)
        edits += edited
    head = (
        "tasks x instances",
        "ready s",
        *(f"{role} cores" for role in ROLES),
        *(f"{role} MB" for role in ROLES),
    )
    load.table(f"At rest ({load.machine()})", head, rests)
    load.table("Edits of the node file", ("edit", "live after s", "control CPU s", "Envoy CPU s"), edits)
    return 0


if __name__ == "__main__":
    sys.exit(main())
