"""Load from h2load (nghttp2's generator, in C) and the CPU time that the server under it takes."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")
_DONE = re.compile(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded")
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Result:
    """One run: requests per second, and CPU microseconds of the server's processes per request."""

    rate: float
    cpu_us: float


def require(*tools: str) -> None:
    """Ends the program with a hint when a tool is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing; on Debian 12: apt-get install nghttp2-client nghttp2-server")


def frame(message: bytes) -> bytes:
    """A gRPC message as it is on the wire: no compression, four bytes of length, the message."""
    return struct.pack(">BI", 0, len(message)) + message


def process_tree(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += process_tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all below it, so far."""
    total = 0
    for member in process_tree(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_S


def run(
    address: str,
    path: str,
    message: bytes,
    pid: int,
    in_flight: int,
    seconds: int,
    warm_up_s: int = 1,
    headers: tuple[str, ...] = (),
) -> Result:
    """Keeps `in_flight` calls open over at most 8 connections and reports rate and CPU; raises on a failed request.

    h2load does not look at grpc-status: check the target with a real client before and after.
    """
    # as many of up to 8 connections as share the calls evenly
    connections = max(count for count in range(1, 9) if in_flight % count == 0)
    with tempfile.NamedTemporaryFile() as body:
        body.write(frame(message))
        body.flush()
        command = [
            "h2load", f"http://{address}{path}", "-d", body.name, "-t", "1",
            "-c", str(connections), "-m", str(in_flight // connections),
            "-H", "content-type: application/grpc", "-H", "te: trailers",
        ]  # fmt: skip
        for header in headers:
            command += ["-H", header]
        _h2load([*command, "-D", str(warm_up_s)], seconds)
        before = cpu_seconds(pid)
        rate, done = _h2load([*command, "-D", str(seconds)], seconds)
        return Result(rate, (cpu_seconds(pid) - before) / done * 1e6)


def _h2load(command: list[str], seconds: int) -> tuple[float, int]:
    output = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
    rate, done = _RATE.search(output), _DONE.search(output)
    if rate is None or done is None or done[1] != done[2] or int(done[1]) == 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output}")
    return float(rate[1]), int(done[1])


def table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Prints a table; the first column is left-aligned."""
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    print(f"\n{title}")
    for line in [head, tuple("-" * width for width in widths), *rows]:
        cells = [line[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)
        ]
        print("  " + "  ".join(cells))


def machine() -> str:
    """The machine in a line: model, cores, kernel."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    return f"{model[1] if model else 'unknown CPU'}, {os.cpu_count()} cores, Linux {os.uname().release}"
