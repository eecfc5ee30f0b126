"""What the contenders go through."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from libs.balancing.simulator.loop import Loop
from libs.balancing.simulator.replica import BatchReplica, Fault, Replica

Work = Callable[[random.Random], float]


def lognormal(median_s: float, sigma: float) -> Work:
    """Work of that median whose logarithm has that standard deviation: a body and a long tail, as real calls have."""
    mu = math.log(median_s)
    return lambda rng: rng.lognormvariate(mu, sigma)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`rate` calls a second (Poisson) for `seconds`, over `replicas`, by `gateways` that share nothing."""

    name: str
    what: str
    replicas: int
    rate: float
    work: Work
    seconds: float = 24.0
    timeout_s: float = 1.0
    good_s: float = math.inf  # a call that takes longer was no success, though nobody gave it up
    slots: int = 4  # of each replica; 0 is without limit
    speeds: tuple[float, ...] = ()  # of the replicas, 1 where there is none
    faults: Mapping[int, tuple[Fault, ...]] = field(default_factory=dict)
    batch_fixed_s: float = 0.0  # above 0: replicas work in batches
    gateways: int = 1
    retries: int = 1
    bad_calls: float = 0.0  # the share of calls that fail wherever they go

    def build(self, loop: Loop, rng: random.Random) -> list[Replica]:
        return [self._replica(loop, rng, number) for number in range(self.replicas)]

    def _replica(self, loop: Loop, rng: random.Random, number: int) -> Replica:
        speed = self.speeds[number] if number < len(self.speeds) else 1.0
        faults = self.faults.get(number, ())
        if self.batch_fixed_s:
            return BatchReplica(loop, rng, fixed_s=self.batch_fixed_s, most=64, speed=speed, faults=faults)
        return Replica(loop, rng, speed=speed, slots=self.slots, faults=faults)


_MODEL = lognormal(0.008, 0.5)  # mean 9 ms: a replica of 4 slots does 440 calls a second
_ANTAGONIST = tuple(Fault(at, at + 2.0, slowdown=4.0) for at in (4.0, 8.0, 12.0, 16.0, 20.0))

# The set-up of finagle's own simulation: ten backends of recorded latencies and one that is ten times slower from 15 s
# to 45 s of a run of 45 s at 1,250 calls a second; nothing is given up, and a call is good that took up to a second.
# Its recorded latencies stand in a file of its own; these have a median of 150 ms, so that five sixths of the slow
# backend's calls and next to none of the others' take longer than the second.
PUBLISHED = Scenario(
    "published",
    "11 replicas, one 10 x slower from 15 s to 45 s",
    replicas=11,
    rate=1250,
    work=lognormal(0.15, 0.4),
    seconds=45.0,
    timeout_s=60.0,
    good_s=1.0,
    slots=0,
    faults={0: (Fault(15.0, 45.0, slowdown=10.0),)},
    retries=0,
)

SCENARIOS = (
    Scenario(
        "healthy",
        "8 equal replicas at 60 % of their capacity",
        replicas=8,
        rate=2100,
        work=_MODEL,
        seconds=8.0,
    ),
    Scenario(
        "mixed speeds",
        "4 replicas of speeds 1, 1, 0.5, 0.25 at 65 %",
        replicas=4,
        rate=780,
        work=_MODEL,
        speeds=(1.0, 1.0, 0.5, 0.25),
    ),
    Scenario(
        "antagonist",
        "1 of 4 replicas 4 x slower for 2 s of every 4 s",
        replicas=4,
        rate=780,
        work=_MODEL,
        faults={0: _ANTAGONIST},
    ),
    Scenario(
        "slow",
        "1 of 3 replicas + 200 ms from 6 s to 16 s",
        replicas=3,
        rate=600,
        work=_MODEL,
        slots=64,
        faults={0: (Fault(6.0, 16.0, delay_s=0.2),)},
    ),
    Scenario(
        "stalled",
        "1 of 3 replicas stops answering from 6 s to 16 s",
        replicas=3,
        rate=600,
        work=_MODEL,
        faults={0: (Fault(6.0, 16.0, stalled=True),)},
    ),
    Scenario(
        "sinkhole",
        "1 of 3 replicas fails every call at once from 6 s to 16 s",
        replicas=3,
        rate=600,
        work=_MODEL,
        faults={0: (Fault(6.0, 16.0, failing=1.0),)},
    ),
    Scenario(
        "half sinkhole",
        "1 of 3 replicas fails 30 % of its calls at once from 6 s to 16 s",
        replicas=3,
        rate=600,
        work=_MODEL,
        faults={0: (Fault(6.0, 16.0, failing=0.3),)},
    ),
    Scenario(
        "killed",
        "1 of 3 replicas is gone from 6 s to 9 s and comes back cold",
        replicas=3,
        rate=600,
        work=_MODEL,
        faults={0: (Fault(6.0, 9.0, refused=True, cold_calls=300),)},
    ),
    Scenario(
        "batches",
        "4 replicas that work in batches (6 ms + 0.4 ms a call), 1 of half the speed",
        replicas=4,
        rate=2000,
        work=lognormal(0.0004, 0.3),
        seconds=10.0,
        speeds=(1.0, 1.0, 1.0, 0.5),
        batch_fixed_s=0.006,
    ),
    Scenario(
        "many gateways",
        "8 gateways over 4 replicas of speeds 1, 1, 0.5, 0.25 at 65 %; the first stops answering from 6 s to 16 s",
        replicas=4,
        rate=400,
        work=_MODEL,
        speeds=(1.0, 1.0, 0.5, 0.25),
        faults={0: (Fault(6.0, 16.0, stalled=True),)},
        gateways=8,
    ),
    Scenario(
        "bad input",
        "8 equal replicas, 1 % of calls fail wherever they go",
        replicas=8,
        rate=1200,
        work=_MODEL,
        seconds=14.0,
        bad_calls=0.01,
    ),
    Scenario(
        "impatient",
        "4 equal replicas at 55 %; callers give up after 12 ms, which is too early for one call in five",
        replicas=4,
        rate=1000,
        work=_MODEL,
        seconds=14.0,
        timeout_s=0.012,
    ),
)
