"""Where the time of a large request goes: microseconds by stage and protocol for a picture of 1x3x224x224 float32
through the PyTorch worker, beside the transport (a sink on the same server) and the model call (ResNet-50's shape)."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import load
from benchmarks.images import KSERVE, bodies, python
from benchmarks.servers import free_port, running

PEERS = Path(__file__).parent / "peers"
EPILOG = """\
Copies of the tensor in Python, per request: one out of the frame (unframe), one into the batch, which converts it as
well (join). Decoding makes a view. A test of the worker counts them. The stages run alone in one thread; transport
is the CPU time of Envoy and the event loop to receive the request and answer nothing, with h2load beside it.
"""


def transport(options: argparse.Namespace, body: bytes) -> load.Result:
    """What the server takes to receive a message of this size and answer a small one."""
    command, environment = python(options)
    port = free_port()
    script = PEERS / "pyvoy_sink.py"
    with running([*command, str(script), str(port)], port, **environment) as pid:
        return load.run(f"127.0.0.1:{port}", KSERVE, body, pid, 1, options.seconds)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="stages",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    add("--python", help="a Python with PyTorch, to run the worker's sources instead of the PEX")
    add("--calls", type=int, default=300, help="of each stage; their median is shown [%(default)s]")
    add("--seconds", type=int, default=3, help="of each measurement of the transport [%(default)s]")
    options = parser.parse_args(argv)
    load.require("h2load")
    command, environment = python(options)
    output = subprocess.run(
        [*command, str(PEERS / "stage_times.py"), str(options.calls)],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip
    found = json.loads(output)
    values = np.random.default_rng(0).random((1, 3, 224, 224), dtype=np.float32)
    messages = bodies("m", values)
    table = []
    for kind, stages in found["stages"].items():
        wire = transport(options, messages[kind][1])
        here = [stages[name] for name in stages if name != "bytes"]
        table.append(
            (
                kind, str(stages["bytes"]), *(f"{us:.0f}" for us in here), f"{wire.cpu_us:.0f}",
                f"{wire.p50_us:.0f}", f"{found['model_us']:.0f}",
                f"{(sum(here) + wire.cpu_us) / found['model_us']:.1%}",
            )
        )  # fmt: skip
    names = [name for name in next(iter(found["stages"].values())) if name != "bytes"]
    head = ("request", "bytes", *names, "transport CPU", "transport p50", "model", "all but model")
    load.table(
        f"Microseconds of a request with one picture; model on {found['threads']} threads ({load.machine()})",
        head,
        table,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
