"""Three instances behind a gateway, under a steady load, with the gateway's own counts sampled: a place for faults."""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.episodes import Sample
from benchmarks.instances import Instance, Link, link
from benchmarks.openloop import OpenLoop
from benchmarks.servers import TASK, WPAI_PREDICT, free_port, message
from examples.quickstart.processes import Process, Processes

SAMPLE_EVERY_S = 0.1


@dataclass(slots=True)
class Site:
    """The parts that a fault may reach for."""

    nodes: Path
    instances: list[Instance]
    gateway: Process
    admin: str
    timeout_ms: int
    roots: bytes = b""  # callers use TLS and trust these certificates
    samples: list[Sample] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def write_nodes(self, text: str) -> None:
        """Replaces the node file in one step, as an editor does."""
        fresh = self.nodes.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.nodes)

    def line(self, task: int = TASK, timeout_ms: int = 0) -> str:
        addresses = ",".join(instance.address for instance in self.instances)
        return f"{task}={timeout_ms or self.timeout_ms},{addresses}\n"

    def status(self) -> Any:
        """The gateway's `/status.json`. Raises OSError."""
        with urllib.request.urlopen(f"http://{self.admin}/status.json", timeout=5) as reply:
            return json.load(reply)

    def load(self, rate: float, timeout_s: float = 1.0) -> OpenLoop:
        """Small calls at a fixed rate, to be used as a context manager."""
        return OpenLoop(self.gateway.address, WPAI_PREDICT, message(256), rate, timeout_s, roots=self.roots)

    def sample(self) -> None:
        """Counts the calls sent to each instance, retries too, until the block of `site` ends."""
        while not self._stop.wait(SAMPLE_EVERY_S):
            with contextlib.suppress(OSError):
                at = time.monotonic()
                found = self.status()["tasks"][str(TASK)]["instances"]
                self.samples.append(Sample(at, {i["address"]: int(i["requests"]) for i in found}))

    def stop_sampling(self) -> None:
        self._stop.set()


@contextlib.contextmanager
def site(
    dist: Path,
    instances: list[Instance],
    *,
    timeout_ms: int = 5000,
    folder: Path = Path("var/benchmarks"),
    config: str = "",
    roots: bytes = b"",
) -> Iterator[Site]:
    """Starts everything, yields it serving and sampled, and ends everything. Raises StartError, RuntimeError.

    `config` is more of a gateway.toml, relative to `folder`; without it the node file alone is served.
    """
    with contextlib.ExitStack() as stack:
        for instance in instances:
            stack.callback(instance.kill)
            instance.start()
        processes = stack.enter_context(Processes(dist, folder))
        nodes = folder / "nodes.txt"
        admin = f"127.0.0.1:{free_port()}"
        addresses = ",".join(instance.address for instance in instances)
        nodes.write_text(f"{TASK}={timeout_ms},{addresses}\n")
        table = ["--nodes", str(nodes)]
        if config:
            toml = folder / "gateway.toml"
            toml.write_text(config)
            table += ["--config", str(toml)]
        gateway = processes.start(
            "gateway",
            "gateway",
            "serve",
            *table,
            "--listen",
            "127.0.0.1:0",
            "--admin",
            admin,
            "--concurrency",
            "2",
        )
        gateway.wait_ready()
        place = Site(nodes, instances, gateway, admin, timeout_ms, roots)
        sampler = threading.Thread(target=place.sample, daemon=True)
        sampler.start()
        stack.callback(sampler.join, 10)
        stack.callback(place.stop_sampling)
        yield place


@contextlib.contextmanager
def place(
    options: argparse.Namespace, linked: bool = False, config: str = "", roots: bytes = b""
) -> Iterator[tuple[Site, Link | None]]:
    """Three fresh instances and a fresh gateway; with `linked` the first one is behind the link that comes too."""
    with contextlib.ExitStack() as stack:
        cable = stack.enter_context(link()) if linked else None
        first = Instance(cable.far, health=options.health, namespace=cable.name) if cable else None
        others = [Instance(health=options.health) for _ in range(2 if first else 3)]
        everyone = [first, *others] if first else others
        timeout_ms = round(options.timeout * 1000)
        there = site(
            options.dist, everyone, timeout_ms=timeout_ms, folder=options.work, config=config, roots=roots
        )
        yield stack.enter_context(there), cable
