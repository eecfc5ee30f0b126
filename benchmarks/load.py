"""Load from h2load (nghttp2's generator, in C), and the CPU time and memory of what is under it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_RATE = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")
_DONE = re.compile(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded")
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Result:
    """One run: requests per second, CPU microseconds of the server's processes per request, and what of all
    requests half and 99 % did not exceed, in microseconds from sent to answered."""

    rate: float
    cpu_us: float
    p50_us: float
    p99_us: float


_PACKAGES = {
    "h2load": "nghttp2-client",
    "nghttpd": "nghttp2-server",
    "nginx": "nginx-light",
    "haproxy": "haproxy",
}


def require(*tools: str) -> None:
    """Ends the program with a hint when a tool is missing."""
    missing = [tool for tool in tools if _find(tool) is None]
    if missing:
        packages = " ".join(_PACKAGES[tool] for tool in missing)
        sys.exit(f"{' and '.join(missing)}: not found; on Debian 12: apt-get install -y {packages}")


def program(tool: str) -> str:
    """Where a tool is. Ends the program with a hint when it is missing."""
    require(tool)
    return str(_find(tool))


def _find(tool: str) -> str | None:
    # Debian keeps servers where the PATH of an ordinary user does not look.
    return shutil.which(tool, path=os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin")


def frame(message: bytes) -> bytes:
    """A gRPC message as it is on the wire: no compression, four bytes of length, the message."""
    return struct.pack(">BI", 0, len(message)) + message


def process_tree(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ended meanwhile
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


def memory_bytes(pid: int) -> int:
    """Resident memory of one process. Shared pages count in full."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def find_child(pid: int, name: str) -> int:
    """The process called `name` at or below another. Raises LookupError."""
    for member in process_tree(pid):
        if Path(f"/proc/{member}/comm").read_text().startswith(name):
            return member
    raise LookupError(f"no {name} below process {pid}")


def h2load_command(
    address: str, path: str, body_file: str, in_flight: int, headers: tuple[str, ...] = ()
) -> tuple[list[str], int]:
    """h2load keeping `in_flight` calls open, over as many of up to 8 connections as share them evenly; and how many."""
    connections = max(count for count in range(1, 9) if in_flight % count == 0)
    command = [
        program("h2load"), f"http://{address}{path}", "-d", body_file, "-t", "1",
        "-c", str(connections), "-m", str(in_flight // connections),
        "-H", "content-type: application/grpc", "-H", "te: trailers",
    ]  # fmt: skip
    for header in headers:
        command += ["-H", header]
    return command, connections


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
    with tempfile.NamedTemporaryFile() as body, tempfile.NamedTemporaryFile() as log:
        body.write(frame(message))
        body.flush()
        command, _ = h2load_command(address, path, body.name, in_flight, headers)
        if warm_up_s:
            _h2load([*command, "-D", str(warm_up_s)], seconds)
        before = cpu_seconds(pid)
        rate, done = _h2load([*command, "-D", str(seconds), "--log-file", log.name], seconds)
        spent = cpu_seconds(pid) - before
        # its columns: when the request began, HTTP status, microseconds until the end of the answer
        took = sorted(int(line.split()[2]) for line in Path(log.name).read_text().splitlines())
    return Result(rate, spent / done * 1e6, took[len(took) // 2], took[len(took) * 99 // 100])


@dataclass(frozen=True, slots=True)
class Served:
    """Some seconds of a steady rate: requests ended, and those that had no HTTP answer or a bad one."""

    done: int
    failed: int


def steady(address: str, path: str, message: bytes, rate: float, seconds: int) -> Served:
    """Sends `rate` calls a second, over 8 connections, for some seconds. Failed ones are counted, not raised."""
    with tempfile.NamedTemporaryFile() as body, tempfile.NamedTemporaryFile() as log:
        body.write(frame(message))
        body.flush()
        command, connections = h2load_command(address, path, body.name, 512)
        each = max(1, round(rate / connections))
        # a number of requests, since at the end of a duration those in flight would be cancelled
        command += ["-n", str(each * connections * seconds), "--rps", str(each), "--log-file", log.name]
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=seconds + 60, check=True)
        statuses = [line.split()[1] for line in Path(log.name).read_text().splitlines()]
    return Served(len(statuses), sum(status != "200" for status in statuses))


def _h2load(command: list[str], seconds: int) -> tuple[float, int]:
    output = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
    rate, done = _RATE.search(output), _DONE.search(output)
    if rate is None or done is None or done[1] != done[2] or int(done[1]) == 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output}")
    return float(rate[1]), int(done[1])


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
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
