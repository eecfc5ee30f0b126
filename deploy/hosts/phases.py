"""What came of the calls in each phase of the check, and whether it is good enough: no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call: when it began, seconds of one clock; how long it took; which instance answered; or what went wrong."""

    begun_s: float
    took_s: float
    instance: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time, and what must hold in it.

    Attributes:
        success: the smallest share of calls that succeed.
        shares: by host, the smallest and largest share of the answers.
    """

    name: str
    from_s: float
    to_s: float
    success: float
    shares: Mapping[str, tuple[float, float]]


def calls_of(phase: Phase, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The calls that began in the phase."""
    return [call for call in outcomes if phase.from_s <= call.begun_s < phase.to_s]


def success(calls: Sequence[Outcome]) -> float:
    """The share of the calls that succeeded; 0 where there are none, which is nothing to be content with."""
    return sum(not call.error for call in calls) / len(calls) if calls else 0.0


def shares(calls: Iterable[Outcome], hosts: Mapping[str, str]) -> dict[str, float]:
    """Each host's share of the answers. `hosts` has their addresses by name."""
    answers = Counter(call.instance.rpartition(":")[0] for call in calls if not call.error)
    return {name: answers[address] / max(1, answers.total()) for name, address in hosts.items()}


def faults(phase: Phase, calls: Sequence[Outcome], hosts: Mapping[str, str]) -> list[str]:
    """What does not hold in a phase, in words."""
    found = []
    if (share := success(calls)) < phase.success:
        reasons = Counter(call.error for call in calls if call.error).most_common(3)
        found.append(
            f"{phase.name}: {share:.2%} of {len(calls)} calls succeeded, wanted {phase.success:.1%}: {reasons}"
        )
    for host, share in shares(calls, hosts).items():
        low, high = phase.shares.get(host, (0.0, 1.0))
        if not low <= share <= high:
            found.append(
                f"{phase.name}: host {host} gave {share:.1%} of the answers, wanted {low:.0%} to {high:.0%}"
            )
    return found


HEAD = ("phase", "seconds", "calls", "succeed", "p50 ms", "p99 ms")


def row(phase: Phase, calls: Sequence[Outcome], hosts: Mapping[str, str]) -> tuple[str, ...]:
    """A line of the table: HEAD, then each host's share of the answers."""
    took = sorted(call.took_s for call in calls) or [0.0]
    return (
        phase.name,
        f"{phase.to_s - phase.from_s:.0f}",
        str(len(calls)),
        f"{success(calls):.2%}",
        f"{took[len(took) // 2] * 1e3:.0f}",
        f"{took[min(len(took) - 1, int(len(took) * 0.99))] * 1e3:.0f}",
        *(f"{share:.0%}" for share in shares(calls, hosts).values()),
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)
