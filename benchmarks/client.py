"""What the Python client costs its caller: beside tensorflow-serving-api's stubs, and directly beside the gateway."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from dl_inference import Client

from benchmarks import load
from benchmarks.servers import PEERS, WORK
from benchmarks.tf_serving import Subject, embedded
from examples.quickstart.processes import Processes

TASK = 70
EPILOG = """\
Import is of what a program needs to call, in a fresh process. Encoding and decoding are of one float32 tensor; a call
is to the embedded server on the same machine, with half_plus_two, so that both callers share what the server takes.
"""


def caller(options: argparse.Namespace, which: str, address: str) -> dict[str, Any]:
    """One caller's figures, each in an environment of its own."""
    script = str(PEERS / "client_times.py")
    if which == "ours":
        command, extra = [sys.executable, script], {"PYTHONPATH": os.pathsep.join(sys.path)}
    else:
        command, extra = [sys.executable, str(options.dist / "tf-serving.pex"), script], {
            "PEX_INTERPRETER": "1"
        }
    ran = subprocess.run(
        [*command, which, address],
        env={**os.environ, **extra, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def compare(ours: dict[str, Any], official: dict[str, Any]) -> None:
    """Print the table of both callers."""
    rows = [
        ("import of the package, s", ours["import_s"], official["import_s"]),
        ("until a call can be made, s", ours["ready_s"], official["ready_s"]),
        ("memory, MB", ours["memory_mb"], official["memory_mb"]),
    ]
    for size in (key for key in ours if key.isdigit()):
        for index, what in enumerate(("encode", "decode", "call")):
            rows.append((f"{what} {int(size) // 1024} KiB, us", ours[size][index], official[size][index]))
        codec = sum(ours[size][:2]), sum(official[size][:2])
        rows.append((f"encode + decode {int(size) // 1024} KiB, us", *codec))
    load.table(
        f"dl_inference beside tensorflow-serving-api ({load.machine()})",
        ("", "dl_inference", "official", "ours is x"),
        [(name, f"{a:.3g}", f"{b:.3g}", f"{b / a:.1f}") for name, a, b in rows],
    )


def drive(client: Client, seconds: float, threads: int) -> tuple[list[float], float]:
    """Seconds of each call of some threads, sorted, and CPU seconds of this process for each."""
    took: list[float] = []
    x, end = np.ones((1, 1), np.float32), time.monotonic() + seconds

    def ask() -> None:
        while time.monotonic() < end:
            start = time.perf_counter()
            client.predict(f"half_plus_two-{TASK}", {"x": x})
            took.append(time.perf_counter() - start)

    before = time.process_time()
    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(seconds + 60)
    return sorted(took), (time.process_time() - before) / len(took)


def directly(options: argparse.Namespace) -> None:
    """Two instances, called through the gateway and without it."""
    with Processes(options.dist, WORK) as processes:
        base = str((options.models / "half_plus_two").absolute())
        name = f"half_plus_two-{TASK}"
        servers = [
            processes.start(
                f"tf-{number}", "tf-serving", "serve", "--model-name", name, "--model-base-path", base, "--port", "0"
            )
            for number in (1, 2)
        ]  # fmt: skip
        nodes = WORK / "client.nodes.txt"
        nodes.write_text(f"{TASK}=5000,{','.join(server.wait_ready() for server in servers)}\n")
        gateway = processes.start(
            "gateway", "gateway", "serve", "--nodes", str(nodes), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"
        )  # fmt: skip
        address, pid = gateway.wait_ready(), gateway.pid
        rows = []
        for threads in (1, 16):
            for label, client in (("gateway", Client(address)), ("direct", Client.direct(nodes))):
                with client:
                    drive(client, 0.5, threads)
                    began = load.cpu_seconds(pid)
                    took, cpu_s = drive(client, options.seconds, threads)
                    between = (load.cpu_seconds(pid) - began) / len(took) if label == "gateway" else 0.0
                rows.append(
                    (
                        f"{label}, {threads} in flight",
                        f"{len(took) / options.seconds:.0f}",
                        f"{took[len(took) // 2] * 1e6:.0f}",
                        f"{took[len(took) * 99 // 100] * 1e6:.0f}",
                        f"{cpu_s * 1e6:.0f}",
                        f"{between * 1e6:.0f}",
                    )
                )
        load.table(
            "Two instances of half_plus_two, one row a call, callers in threads of one process",
            ("", "calls/s", "p50 us", "p99 us", "client CPU us", "gateway CPU us"),
            rows,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="client",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument(
        "--models", type=Path, default=Path("var/models"), help="example models [%(default)s]"
    )
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement [%(default)s]")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    with embedded(options, Subject("half_plus_two", 1, "y")) as server:
        ours, official = (caller(options, which, server.address) for which in ("ours", "official"))
    compare(ours, official)
    directly(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
