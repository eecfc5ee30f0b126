"""What operators do under load, none of which may fail a call: edits, restarts of every instance, new certificates."""

from __future__ import annotations

import argparse
import shutil
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import episodes
from benchmarks.openloop import Call
from benchmarks.site import place

Row = tuple[str, ...]


def edit(options: argparse.Namespace) -> tuple[Row, bool]:
    """Edits of the node file under load: instances leave and come, timeouts change, other tasks come and go."""
    with place(options) as (there, _):
        all_three = there.instances
        took = []
        with there.load(options.rate, options.timeout) as calls:
            time.sleep(1.0)
            begun = time.monotonic()
            for number in range(options.edits):
                there.instances = [i for at, i in enumerate(all_three) if at != number % 3]
                before = there.status()["config"]["version"]
                edited = time.monotonic()
                others = "".join(there.line(1000 + number * 10 + task) for task in range(number % 7))
                there.write_nodes(there.line(timeout_ms=there.timeout_ms + number) + others)
                while there.status()["config"]["version"] == before and time.monotonic() < edited + 5.0:
                    time.sleep(0.01)
                took.append(time.monotonic() - edited)
            time.sleep(1.0)
    return _count(f"{options.edits} edits", episodes.between(calls.calls, begun, time.monotonic()), took)


def roll(options: argparse.Namespace) -> tuple[Row, bool]:
    """Every instance is drained, ended and started again, one after the other, under load."""
    with place(options) as (there, _):
        took = []
        with there.load(options.rate, options.timeout) as calls:
            time.sleep(1.0)
            begun = time.monotonic()
            for instance in there.instances:
                stopped = time.monotonic()
                instance.drain()
                instance.start()
                took.append(time.monotonic() - stopped)
                time.sleep(3.0)
    return _count("rolling restart", episodes.between(calls.calls, begun, time.monotonic()), took)


def certify(options: argparse.Namespace) -> tuple[Row, bool]:
    """The gateway's certificate is replaced under load, until each time a new caller is shown the new one."""
    pairs = [_certificate(options.work, name) for name in ("one", "two")]
    roots = b"".join(cert.read_bytes() for cert, _ in pairs)
    cert, key = options.work / "served.pem", options.work / "served.key"

    def serve(pair: tuple[Path, Path]) -> None:
        for source, target in zip(pair, (cert, key), strict=True):
            fresh = target.with_suffix(".new")
            shutil.copy(source, fresh)
            fresh.rename(target)

    serve(pairs[0])
    config = '[listener]\ntls = { cert = "served.pem", key = "served.key" }\n'
    with place(options, config=config, roots=roots) as (there, _):
        host, _, port = there.gateway.address.rpartition(":")
        took = []
        with there.load(options.rate, options.timeout) as calls:
            time.sleep(1.0)
            begun = time.monotonic()
            for number in range(1, options.certificates + 1):
                changed = time.monotonic()
                serve(pairs[number % 2])
                wanted = pairs[number % 2][0].read_text().split()
                while ssl.get_server_certificate((host, int(port)), timeout=5).split() != wanted:
                    if time.monotonic() > changed + 10.0:
                        raise RuntimeError("the new certificate was not taken up within 10 s")
                    time.sleep(0.02)
                took.append(time.monotonic() - changed)
                time.sleep(0.5)
            time.sleep(1.0)
    return _count(
        f"{options.certificates} certificates", episodes.between(calls.calls, begun, time.monotonic()), took
    )


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key. Needs openssl."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:gateway.test", "-out", str(cert), "-keyout", str(key)],
        check=True, capture_output=True, timeout=20,
    )  # fmt: skip
    return cert, key


def _count(name: str, calls: Sequence[Call], took: Sequence[float]) -> tuple[Row, bool]:
    failed = sum(not call.ok for call in calls)
    p99 = episodes.percentile([call.took_s for call in calls], 0.99)
    row = (
        name, str(len(calls)), str(failed), "ok" if failed == 0 else "BROKEN", f"{max(took):.2f}",
        f"{p99 * 1e3:.0f}", episodes.reasons(calls),
    )  # fmt: skip
    return row, failed == 0
