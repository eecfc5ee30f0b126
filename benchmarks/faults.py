"""What callers notice when an instance of three dies, freezes, slows down, fails or vanishes: a steady load through
the gateway while it happens. Also: edits of the node file, restarts of every instance, new certificates.

Bars: 99.9 % of an episode's calls succeed; no call fails in those changes. Ends with status 1 when one is broken.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import changes, episodes, instances, load
from benchmarks.changes import Row
from benchmarks.instances import Instance
from benchmarks.site import place

SUCCESS_BAR = 0.999
BEFORE_S = 4.0  # of an episode, for everything to be warm and to see p99 without a fault
EPILOG = """\
columns: `shed`: seconds from the fault until the instance gets less than 2 % of the calls (a second's worth); `share`:
what it got of them after the first 2 s of the fault; `recover`: seconds from the mending until it gets more than 25 %
again; `p99`: of the calls due during the fault, in milliseconds, beside that of the seconds before it.
The load is open-loop: a call is due whether or not the ones before it were answered, and waiting counts from then.
`vanished` needs root, for a network namespace; it is left out where that is not allowed.
"""

Act = Callable[[Instance, instances.Link | None], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one instance, and what ends it."""

    name: str
    begin: Act
    end: Act
    linked: bool = False  # the instance lives behind a cable of its own


def _cut(instance: Instance, link: instances.Link | None) -> None:
    assert link is not None
    link.cut()


def _mend(instance: Instance, link: instances.Link | None) -> None:
    assert link is not None
    link.mend()


FAULTS = (
    Fault("killed", lambda i, _: i.kill(), lambda i, _: i.start()),
    Fault("frozen", lambda i, _: i.freeze(), lambda i, _: i.thaw()),
    Fault("slow", lambda i, _: i.tell("delay 0.205"), lambda i, _: i.tell("delay 0.005")),
    Fault("unavailable", lambda i, _: i.tell("status UNAVAILABLE"), lambda i, _: i.tell("status OK")),
    Fault("internal", lambda i, _: i.tell("status INTERNAL"), lambda i, _: i.tell("status OK")),
    Fault("vanished", _cut, _mend, linked=True),
)
EDITS, ROLLING, CERTIFICATES = "edits", "rolling", "certificates"


def suffer(fault: Fault, options: argparse.Namespace) -> tuple[Row, bool]:
    """One episode; its row, and whether it holds the bar."""
    with place(options, fault.linked) as (there, link):
        victim = there.instances[0]
        with there.load(options.rate, options.timeout) as calls:
            time.sleep(BEFORE_S)
            begun = time.monotonic()
            fault.begin(victim, link)
            time.sleep(options.fault_seconds)
            ended = time.monotonic()
            fault.end(victim, link)
            time.sleep(options.after_seconds)
    done = calls.calls
    episode = episodes.between(done, begun, time.monotonic())
    before = [call.took_s for call in episodes.between(done, begun - BEFORE_S / 2, begun)]
    during = [call.took_s for call in episodes.between(done, begun, ended)]
    shares = episodes.shares(there.samples, victim.address)
    shed = episodes.first_window(
        [s for s in shares if s[0] < ended - episodes.WINDOW_S], begun, episodes.SHED_BELOW
    )
    late = [share for at, share in shares if begun + 2.0 <= at < ended - episodes.WINDOW_S]
    recovered = episodes.first_window_above(shares, ended, episodes.RECOVERED_ABOVE)
    held = episodes.success(episode) >= SUCCESS_BAR
    if options.trace:
        for at, share in shares[::3]:
            print(f"    {at - begun:6.1f} s  {share:6.1%}", file=sys.stderr)
        for call in sorted((c for c in episode if not c.ok), key=lambda c: c.due_s)[:40]:
            print(
                f"    {call.due_s - begun:6.2f} s  {call.status} {call.took_s:.3f} s {call.message}",
                file=sys.stderr,
            )
    row = (
        fault.name, str(len(episode)), f"{episodes.success(episode):.3%}", "ok" if held else "BROKEN",
        _seconds(shed), f"{sum(late) / len(late):.1%}" if late else "-", _seconds(recovered),
        f"{episodes.percentile(before, 0.99) * 1e3:.0f}", f"{episodes.percentile(during, 0.99) * 1e3:.0f}",
        episodes.reasons(episode),
    )  # fmt: skip
    return row, held


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def main() -> int:
    names = [fault.name for fault in FAULTS] + [EDITS, ROLLING, CERTIFICATES]
    parser = argparse.ArgumentParser(
        prog="faults",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dist", type=Path, default=Path("dist"), help="folder of the PEXes [%(default)s]")
    parser.add_argument(
        "--work", type=Path, default=Path("var/benchmarks"), help="folder of logs [%(default)s]"
    )
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some episodes alone")
    parser.add_argument("--rate", type=float, default=300.0, help="calls a second [%(default)g]")
    parser.add_argument(
        "--timeout", type=float, default=1.0, help="deadline of a call, seconds [%(default)g]"
    )
    parser.add_argument("--fault-seconds", type=float, default=10.0, help="length of a fault [%(default)g]")
    parser.add_argument("--after-seconds", type=float, default=18.0, help="watched after it [%(default)g]")
    parser.add_argument("--edits", type=int, default=100, help="of the node file [%(default)s]")
    parser.add_argument("--certificates", type=int, default=10, help="times they are replaced [%(default)s]")
    parser.add_argument(
        "--no-health", dest="health", action="store_false", help="instances without grpc.health.v1"
    )
    parser.add_argument("--trace", action="store_true", help="print shares and failed calls with their times")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    faults: list[Row] = []
    kept: list[Row] = []
    good = True

    def note(rows: list[Row], found: tuple[Row, bool]) -> None:
        nonlocal good
        rows.append(found[0])
        good = good and found[1]
        print("  " + "  ".join(found[0]), file=sys.stderr, flush=True)

    for fault in FAULTS:
        if fault.name in options.only:
            if fault.linked and not instances.can_link():
                print(f"  {fault.name}: left out, it needs root and iproute2", file=sys.stderr)
                continue
            note(faults, suffer(fault, options))
    if EDITS in options.only:
        note(kept, changes.edit(options))
    if ROLLING in options.only:
        note(kept, changes.roll(options))
    if CERTIFICATES in options.only:
        note(kept, changes.certify(options))
    load_text = f"{options.rate:g} calls a second, deadline {options.timeout:g} s"
    if faults:
        head = ("fault of 1 in 3", "calls", "success", f">= {SUCCESS_BAR:.1%}", "shed s", "share", "recover s",
                "p99 before", "p99 ms", "failures")  # fmt: skip
        load.table(f"Faults under load: {load_text} ({load.machine()})", head, faults)
    if kept:
        columns = ("change", "calls", "failed", "= 0", "longest s", "p99 ms", "failures")
        load.table(f"Changes under load: {load_text}", columns, kept)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
