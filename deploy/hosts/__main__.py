"""Three hosts, two gateways, four PyTorch workers, and callers that use both gateways by the Python client.

    host a  gateway, worker        host b  gateway, worker        host c  worker, worker

Host c is cut off from the network, then mended; then host b, a gateway's. Nobody tells the gateways or the callers.
While a cut is being found out a few calls may fail, after that none; a mended host gets its calls back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from dl_inference import Client, InferenceError, calls

from deploy.hosts.network import Host, switch
from deploy.hosts.phases import HEAD, Outcome, Phase, calls_of, faults, row, table
from examples.quickstart.processes import Process, Processes, StartError

TASK = 111
GATEWAY_PORT, ADMIN_PORT, WORKER_PORT = 8500, 9901, 8866
WORKERS = (("a", 1), ("b", 1), ("c", 2))
GATEWAYS = ("a", "b")
CALLERS, PAUSE_S = 32, 0.15  # some two hundred calls a second; a stuck call holds up its caller alone
TIMEOUT_MS, CALL_TIMEOUT_S = 1000, 3.0
# A connection to a gateway on which nothing is acknowledged for this long is given up by the client.
SILENCE_S = 1.0
# A cut is found by the gateways' health checks and by the client's connections within this.
FOUND_S = 3.0
WHILE_FOUND = 0.98
# Seconds of each part; what is mended is called again within RETURN_S, checked over what is left of BACK_S.
STEADY_S, CUT_S, RETURN_S, BACK_S = 5.0, 8.0, 11.0, 16.0


class Callers:
    """Threads that call now and then until told to stop; every outcome is kept."""

    def __init__(self, client: Client, features: np.ndarray, expected: Sequence[float]) -> None:
        self._client, self._call = client, calls.pytorch(TASK, features)
        self._expected = np.asarray(expected)
        self._stop = threading.Event()
        self.outcomes: list[Outcome] = []

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(2 * CALL_TIMEOUT_S)

    def _run(self, number: int) -> None:
        self._stop.wait(PAUSE_S * number / CALLERS)
        while not self._stop.is_set():
            self.outcomes.append(self.once())
            self._stop.wait(PAUSE_S)

    def once(self) -> Outcome:
        begun = time.monotonic()
        try:
            reply = self._client.call(self._call)
        except InferenceError as error:
            return Outcome(begun, time.monotonic() - begun, error=f"{type(error).__name__}: {error.message}")
        right = np.allclose(np.ravel(reply.value.payload), self._expected, atol=1e-4)
        wrong = "" if right else "a wrong answer"
        return Outcome(begun, time.monotonic() - begun, reply.instance, wrong)


def start(processes: Processes, hosts: dict[str, Host], models: Path, nodes: Path) -> None:
    """Starts the workers, then the gateways, each on its host; returns when all are ready."""
    workers: list[Process] = []
    addresses = []
    for name, count in WORKERS:
        for number in range(count):
            address = f"{hosts[name].address}:{WORKER_PORT + number}"
            addresses.append(address)
            workers.append(
                processes.start(
                    f"worker-{name}{number}", "torch-worker-cpu", "serve", "--model-dir", str(models / "mmoe"),
                    "--host", hosts[name].address, "--port", str(WORKER_PORT + number), "--threads", "1",
                    inside=hosts[name].inside(),
                )
            )  # fmt: skip
    for worker in workers:
        worker.wait_ready()
    nodes.write_text(f"{TASK}={TIMEOUT_MS},{','.join(addresses)}\n")
    for name in GATEWAYS:
        host = hosts[name].address
        gateway = processes.start(
            f"gateway-{name}", "gateway", "serve", "--nodes", str(nodes), "--concurrency", "1",
            "--listen", f"{host}:{GATEWAY_PORT}", "--admin", f"{host}:{ADMIN_PORT}",
            inside=hosts[name].inside(),
        )  # fmt: skip
        gateway.wait_ready()


def cut_and_mend(host: Host, share: tuple[float, float]) -> list[Phase]:
    """Cuts a host off, waits, mends it, waits; what must hold meanwhile."""
    name = host.name
    cut = time.monotonic()
    host.cut()
    time.sleep(CUT_S)
    mended = time.monotonic()
    host.mend()
    time.sleep(BACK_S)
    gone, back = {name: (0.0, 0.0)}, {name: share}
    return [
        Phase(f"host {name} is cut off", cut, cut + FOUND_S, WHILE_FOUND, {}),
        Phase(f"host {name} is away", cut + FOUND_S, mended, 1.0, gone),
        Phase(f"host {name} is mended", mended, mended + RETURN_S, 1.0, {}),
        Phase(f"host {name} is back", mended + RETURN_S, mended + BACK_S, 1.0, back),
    ]


def requests_at(host: Host) -> float:
    """How many calls a gateway has ended, as it says itself."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{host.address}:{ADMIN_PORT}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    wanted = f'dl_gateway_requests_total{{task="{TASK}"'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted))


def check(processes: Processes, models: Path, work: Path) -> list[str]:
    """The whole course; prints the table and returns what does not hold."""
    switch()
    hosts = {name: Host(name, number) for number, name in enumerate("abc", 1)}
    began = time.monotonic()
    start(processes, hosts, models, work / "nodefile.txt")
    print(f"2 gateways and 4 workers on 3 hosts are ready after {time.monotonic() - began:.0f} s", flush=True)
    known = json.loads((models / "mmoe" / "expected.json").read_text())
    features = np.asarray(known["features"][:1], dtype=np.float64)
    target = "ipv4:" + ",".join(f"{hosts[name].address}:{GATEWAY_PORT}" for name in GATEWAYS)
    with Client(target, timeout_s=CALL_TIMEOUT_S, silence_s=SILENCE_S) as client:
        callers = Callers(client, features, known["outputs"][0])
        for _ in range(20):  # connections, warm weights
            callers.once()
        with callers.calling():
            steady = time.monotonic()
            time.sleep(STEADY_S)
            part = {"a": (0.1, 0.5), "b": (0.1, 0.5), "c": (0.25, 0.75)}
            phases = [Phase("all hosts are there", steady, time.monotonic(), 1.0, part)]
            phases += cut_and_mend(hosts["c"], part["c"])
            phases += cut_and_mend(hosts["b"], part["b"])
            before = {name: requests_at(hosts[name]) for name in GATEWAYS}
            time.sleep(2.0)
            used = {name: requests_at(hosts[name]) - before[name] for name in GATEWAYS}
    addresses = {name: host.address for name, host in hosts.items()}
    done = list(callers.outcomes)
    in_phase = [(phase, calls_of(phase, done)) for phase in phases]
    rows = [row(phase, found, addresses) for phase, found in in_phase]
    print(table((*HEAD, *(f"by {name}" for name in hosts)), rows))
    print("calls by gateway, in the end: " + ", ".join(f"{name} {count:.0f}" for name, count in used.items()))
    found = [fault for phase, held in in_phase for fault in faults(phase, held, addresses)]
    if min(used.values()) < 0.25 * sum(used.values()):
        found.append(f"the callers do not use both gateways again: {used}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="check-hosts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument(
        "--models", type=Path, default=Path("var/models"), help="example models [%(default)s]"
    )
    parser.add_argument("--logs", type=Path, default=Path("var/hosts"), help="folder of logs [%(default)s]")
    options = parser.parse_args(argv)
    try:
        with (
            tempfile.TemporaryDirectory() as work,
            Processes(options.dist.absolute(), options.logs.absolute()) as processes,
        ):
            found = check(processes, options.models.absolute(), Path(work))
    except StartError as error:
        found = [str(error)]
    for fault in found:
        print(f"check-hosts: {fault}", file=sys.stderr)
    if not found:
        print("The hosts hold.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
