"""What the end-to-end tests share: where the built artefacts are, and load that records every outcome."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from examples.quickstart.processes import Process, Processes

# The build places the PEXes and the models in the working directory of a test.
PEXES = Path.cwd()
TORCH_MODELS = Path("examples/torch/models").absolute()
TENSORFLOW_MODELS = Path("examples/tensorflow/models").absolute()
SLOW_MODEL = Path("e2e/slow").absolute()

ANY_PORT = ("--host", "127.0.0.1", "--port", "0")


def start_worker(processes: Processes, name: str, folder: Path, *arguments: str) -> Process:
    return processes.start(
        name, "torch-worker-cpu", "serve", "--model-dir", str(folder), *ANY_PORT, *arguments
    )


def start_tensorflow(processes: Processes, name: str, model: str, base: Path) -> Process:
    return processes.start(
        name, "tf-serving", "serve", "--model-name", model, "--model-base-path", str(base), *ANY_PORT
    )


def start_gateway(
    processes: Processes,
    nodes: Path,
    tasks: Mapping[int, list[str]],
    timeouts_ms: Mapping[int, int] = MappingProxyType({}),
) -> Process:
    """Writes the node file and starts a gateway over it; returns it ready."""
    write_nodes(nodes, tasks, timeouts_ms)
    any_port = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    gateway = processes.start("gateway", "gateway", "serve", "--nodes", str(nodes), *any_port)
    gateway.wait_ready()
    return gateway


def write_nodes(
    nodes: Path, tasks: Mapping[int, list[str]], timeouts_ms: Mapping[int, int] = MappingProxyType({})
) -> None:
    """Replaces the node file in one step, as an editor or a ConfigMap does. A task has 5 s unless told."""
    fresh = nodes.with_suffix(".new")
    lines = (f"{task}={timeouts_ms.get(task, 5000)},{','.join(hosts)}" for task, hosts in tasks.items())
    fresh.write_text("\n".join(lines) + "\n")
    fresh.rename(nodes)


class Load:
    """Threads that call without pause until stopped; every outcome is kept with the time at which it came."""

    def __init__(self, call: Callable[[], str], threads: int = 4) -> None:
        self._call = call
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        self.served: list[tuple[float, str]] = []
        self.failures: list[BaseException] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.served.append((time.monotonic(), self._call()))
            except Exception as error:
                self.failures.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def instances(self, since: float, until: float = float("inf")) -> set[str]:
        """Who served the calls that were answered between two moments of time.monotonic()."""
        return {instance for at, instance in list(self.served) if since <= at < until}
