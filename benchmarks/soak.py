"""Minutes of steady traffic through the gateway at 70 % of what it can do on this machine, while its node file is
edited and instances are killed: is memory flat, and is every failed call explained?"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import episodes, load, site
from benchmarks.instances import Instance
from benchmarks.openloop import Call
from benchmarks.servers import WPAI_PREDICT, check, echo_command, message
from benchmarks.site import Site

EPILOG = """\
The traffic comes from h2load, which sees HTTP statuses only; gRPC statuses are those that the gateway counts in
/metrics, and a Python client calls beside it, 50 times a second, and keeps every outcome. Instances are nghttpd. Every
5 s the node file is edited: timeouts, other tasks, and one instance leaves or comes back. Every 20 s one instance is
killed (SIGKILL) and started again 3 s later.
A failed call is explained when it ended within 3 s of a kill; any other ends the soak with status 1. So does growth:
the median memory of the last fifth of the time over that of the second fifth by more than 5 % and 8 MiB.
"""

EDIT_EVERY_S, KILL_EVERY_S, DOWN_S = 5.0, 20.0, 3.0
EXPLAINED_S = 3.0  # after a kill
SAMPLE_EVERY_S = 1.0
GROWTH, GROWTH_MIB = 0.05, 8.0
_COUNT = re.compile(r'^dl_gateway_requests_total\{task="([^"]*)",code="([^"]*)"\} (\d+)', re.MULTILINE)


class Echo(Instance):
    """nghttpd as an instance: it answers as fast as C does."""

    def start(self) -> None:
        command = echo_command(self.port)
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                check(self.address, b"ready")
                return
            time.sleep(0.05)
        raise RuntimeError(f"nghttpd did not start at {self.address}")


@dataclass(slots=True)
class Log:
    """What was seen, with times of time.monotonic()."""

    kills: list[float] = field(default_factory=list)
    edits: int = 0
    memory: list[tuple[float, float, float]] = field(default_factory=list)  # time, MiB of Envoy, of the rest
    counts: list[tuple[float, Counter[str]]] = field(default_factory=list)  # time, calls by status as counted
    served: list[load.Served] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)  # of the soak itself

    def explained(self, at_s: float, window_s: float = 0.0) -> bool:
        """Whether a call that ended in the `window_s` before a time may have met a kill."""
        return any(at_s - window_s - EXPLAINED_S <= kill <= at_s for kill in self.kills)


def metrics(there: Site) -> Counter[str]:
    """Calls by gRPC status, as the gateway counts them. Raises OSError."""
    with urllib.request.urlopen(f"http://{there.admin}/metrics", timeout=5) as reply:
        counts: Counter[str] = Counter()
        for _, code, count in _COUNT.findall(reply.read().decode()):
            counts[code] += int(count)
        return counts


def sample(there: Site, log: Log, stop: threading.Event) -> None:
    while not stop.wait(SAMPLE_EVERY_S):
        try:
            log.counts.append((time.monotonic(), metrics(there)))
        except OSError as error:
            log.troubles.append(f"/metrics: {error}")
        envoy = load.find_child(there.gateway.pid, "envoy")
        rest = sum(load.memory_bytes(pid) for pid in load.process_tree(there.gateway.pid) if pid != envoy)
        log.memory.append((time.monotonic(), load.memory_bytes(envoy) / 2**20, rest / 2**20))


def disturb(there: Site, log: Log, stop: threading.Event) -> None:
    """Edits and kills until told to stop."""
    everyone = list(there.instances)
    started = time.monotonic()
    next_kill = started + KILL_EVERY_S / 2
    while not stop.wait(EDIT_EVERY_S):
        log.edits += 1
        there.instances = [i for at, i in enumerate(everyone) if log.edits % 2 == 0 or at != log.edits % 3]
        others = "".join(there.line(1000 + (log.edits * 5 + number) % 100) for number in range(20))
        there.write_nodes(there.line(timeout_ms=2000 + log.edits) + others)
        if time.monotonic() >= next_kill:
            next_kill += KILL_EVERY_S
            victim = everyone[len(log.kills) % len(everyone)]
            log.kills.append(time.monotonic())
            victim.kill()
            stop.wait(DOWN_S)
            victim.start()


def soak(options: argparse.Namespace) -> tuple[Log, list[Call], float]:
    log = Log()
    stop = threading.Event()
    instances: list[Instance] = [Echo() for _ in range(3)]
    with site.site(options.dist, instances, timeout_ms=2000, folder=options.work) as there:
        address, body = there.gateway.address, message(options.size)
        capacity = load.run(address, WPAI_PREDICT, body, there.gateway.pid, 32, options.capacity_seconds).rate
        print(f"  capacity: {capacity:.0f} calls a second", file=sys.stderr, flush=True)
        time.sleep(3.0)  # the calls that ended with that measurement are counted a moment later
        threads = [threading.Thread(target=work, args=(there, log, stop)) for work in (sample, disturb)]
        for thread in threads:
            thread.start()
        try:
            with there.load(50.0, timeout_s=2.0) as probe:
                end = time.monotonic() + options.minutes * 60
                while (left := end - time.monotonic()) > 0:
                    rate = capacity * options.share
                    log.served.append(
                        load.steady(address, WPAI_PREDICT, body, rate, max(1, min(10, round(left))))
                    )
                    counted = log.counts[-1][1] if log.counts else Counter[str]()
                    print(
                        f"  {options.minutes * 60 - left:.0f} s: {sum(part.done for part in log.served)} calls, not OK:"
                        f" {sum(counted.values()) - counted['OK']}, Envoy {log.memory[-1][1]:.0f} MiB,"
                        f" control plane {log.memory[-1][2]:.0f} MiB, {log.edits} edits, {len(log.kills)} kills",
                        file=sys.stderr, flush=True,
                    )  # fmt: skip
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    return log, probe.calls, capacity


def growth(samples: list[tuple[float, float]]) -> tuple[float, float, float, bool]:
    """Memory early and late (MiB), its slope (KiB a minute), and whether it is flat.

    The first fifth of the time is for buffers and caches to find their size.
    """
    fifth = max(1, len(samples) // 5)
    early = statistics.median(mib for _, mib in samples[fifth : 2 * fifth] or samples)
    late = statistics.median(mib for _, mib in samples[-fifth:])
    slope = statistics.linear_regression(*zip(*samples[fifth:], strict=True)).slope * 60 * 1024
    return early, late, slope, late - early <= max(GROWTH * early, GROWTH_MIB)


def failures(log: Log, probe: list[Call]) -> tuple[list[tuple[str, ...]], int]:
    """A row for each class of failed calls, and how many have no explanation."""
    classes: Counter[tuple[str, str, bool]] = Counter()
    for call in probe:
        if not call.ok:
            explained = log.explained(call.due_s + call.took_s, call.took_s)
            classes["client", f"{call.status}: {call.message[:70]}", explained] += 1
    for (before, old), (after, new) in zip(log.counts, log.counts[1:], strict=False):
        for code, count in (new - old).items():
            if code != "OK":
                # counted up to a second late, and then seen at the next sample
                classes["gateway's count", code, log.explained(after, after - before + 1.0)] += count
    lost = sum(part.failed for part in log.served)
    if lost:
        classes["h2load", "no answer, or an HTTP error", False] += lost
    for trouble in log.troubles:
        classes["soak", trouble, False] += 1
    rows: list[tuple[str, ...]] = [
        (who, what, str(count), "a kill" if explained else "NO")
        for (who, what, explained), count in classes.items()
    ]
    return rows, sum(count for (_, _, explained), count in classes.items() if not explained)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument(
        "--work", type=Path, default=Path("var/benchmarks"), help="folder of logs [%(default)s]"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long [%(default)g]")
    parser.add_argument("--share", type=float, default=0.7, help="of the capacity [%(default)g]")
    parser.add_argument("--size", type=int, default=1024, help="of a message, bytes [%(default)s]")
    parser.add_argument(
        "--capacity-seconds", type=int, default=5, help="to measure the capacity [%(default)s]"
    )
    options = parser.parse_args()
    load.require("h2load", "nghttpd")
    options.work.mkdir(parents=True, exist_ok=True)
    log, probe, capacity = soak(options)
    rows: list[tuple[str, ...]] = []
    flat = True
    for name, at in (("Envoy", 1), ("control plane", 2)):
        early, late, slope, good = growth([(entry[0], entry[at]) for entry in log.memory])
        flat = flat and good
        rows.append((name, f"{early:.1f}", f"{late:.1f}", f"{slope:+.0f}", "ok" if good else "GROWS"))
    load.table(
        f"Memory over {options.minutes:g} minutes at {options.share:.0%} of {capacity:.0f} calls a second"
        f" ({load.machine()})",
        ("process", "MiB early", "MiB late", "KiB a minute", ""), rows,
    )  # fmt: skip
    classes, unexplained = failures(log, probe)
    calls = sum(part.done for part in log.served)
    took = [call.took_s * 1e3 for call in probe]
    load.table(
        f"Calls: {calls} by h2load, {len(probe)} by the client (p50 {episodes.percentile(took, 0.5):.0f} ms, p99"
        f" {episodes.percentile(took, 0.99):.0f} ms); {log.edits} edits, {len(log.kills)} kills",
        ("failed calls, seen by", "what", "count", "explained by"), classes or [("none", "", "0", "")],
    )  # fmt: skip
    print(f"\n{unexplained} unexplained errors; memory is {'flat' if flat else 'NOT flat'}")
    return 0 if flat and unexplained == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
