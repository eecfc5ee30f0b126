"""Turns load reports into endpoint weights.

What the data plane cannot do by itself: its policies know weights and calls in flight, so outcomes and latency reach
it as weights. By policy:

    round_robin     the configured weights
    weighted        x the share that outcomes leave (the published rule, gradual on the way up)
    least_request   the same
    peak_ewma       the same x (fastest latency / latency) ** 2; the data plane divides by the calls in flight, which
                    together is one over peak EWMA's cost
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from libs.balancing.endpoint import Endpoint
from libs.balancing.member import Member
from libs.balancing.policy import PolicyName
from libs.balancing.tuning import DEFAULT, Tuning

# Weights go out multiplied by this: whole numbers have to tell a share of 1/1000 whose latency is bad as well from one
# whose latency is not. The sum of a pool's must fit into 32 bits.
SCALE = 100
# Shares go out in steps of this ratio, and latency within one of them is equal: a data plane that sees equal weights
# uses its better algorithm (see docs/balancing.md), and a pool that is well sends no updates at all.
STEP = 2**0.25
_BY_CALLS_IN_FLIGHT = (PolicyName.LEAST_REQUEST, PolicyName.PEAK_EWMA)


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """What one data plane saw of one endpoint in one reporting window: calls that ended, by outcome; calls that were
    answered, with the sum of their latencies; and calls that were there at its end.

    Latency may come in a report of its own, without outcomes.
    """

    endpoint: Endpoint
    successes: int
    failures: int
    latency_sum_ms: float = 0.0
    latency_calls: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class PoolMembers:
    """A pool's policy and its endpoints' configured weights (at least 1)."""

    policy: PolicyName
    weights: Mapping[Endpoint, int]


class WeightController:
    """The weights of every pool. Pools are named by any string; weights change only in `observe` and `set_pools`.

    Reports of any number of data planes may be mixed: their windows add up.
    """

    def __init__(self, clock: Callable[[], float], tuning: Tuning = DEFAULT) -> None:
        """`clock` gives seconds and never runs backwards."""
        self._clock = clock
        self._tuning = tuning
        self._pools: dict[str, _Pool] = {}

    def set_pools(self, pools: Mapping[str, PoolMembers]) -> None:
        """Makes the pools exactly these. An endpoint that stays keeps its share; one that is new begins with a
        little of it where the pool already works, so that it can warm up, and with all of it in a pool that is new.
        """
        now_s = self._clock()
        before = self._pools
        self._pools = {
            name: _Pool(members, before.get(name), now_s, self._tuning) for name, members in pools.items()
        }

    def observe(self, pool: str, reports: Iterable[EndpointReport]) -> bool:
        """Applies one window of a pool's reports and says whether a weight changed.

        Reports about a pool or an endpoint that has left are ignored: they are late, not wrong.
        """
        found = self._pools.get(pool)
        return found is not None and found.observe(reports, self._clock())

    def weights(self, pool: str) -> dict[Endpoint, int]:
        """The weights to hand to the data plane, in the order the endpoints were given, SCALE times the configured
        ones while all is well; {} for an unknown pool.
        """
        found = self._pools.get(pool)
        return dict(found.weights) if found else {}

    def effective(self, pool: str) -> dict[Endpoint, int]:
        """The same in the scale of the configured weights, for people: rounded, at least 1."""
        return {endpoint: max(1, round(weight / SCALE)) for endpoint, weight in self.weights(pool).items()}


class _Pool:
    def __init__(self, given: PoolMembers, before: _Pool | None, now_s: float, tuning: Tuning) -> None:
        self._tuning = tuning
        self._policy = given.policy
        self.served: bool = before.served if before else False  # calls have ended in it
        old = before.members if before else {}
        # Where everybody is new there is nobody to compare with.
        share = tuning.start if self.served and not old.keys().isdisjoint(given.weights) else 1.0
        self.members: dict[Endpoint, Member] = {}
        for endpoint, weight in given.weights.items():
            member = old.get(endpoint)
            if member is None:
                member = Member(weight, now_s, share=share, tuning=tuning)
            elif member.weight != weight:
                member = member.reweighted(weight)
            self.members[endpoint] = member
        self.weights: dict[Endpoint, int] = self._weights()

    def observe(self, reports: Iterable[EndpointReport], now_s: float) -> bool:
        ended: dict[Endpoint, int] = {}
        in_flight: dict[Endpoint, int] = {}
        for report in reports:
            member = self.members.get(report.endpoint)
            if member is None:
                continue
            if report.latency_calls:
                member.observe_latency(
                    report.latency_sum_ms / report.latency_calls, report.latency_calls, now_s
                )
            in_flight[report.endpoint] = report.in_flight
            if report.successes or report.failures:
                ended[report.endpoint] = report.successes + report.failures
                member.observe(report.successes, report.failures, report.in_flight, now_s)
        if ended:
            self.served = True
            calls, pulls = sum(ended.values()), self._pulls(in_flight)
            total = sum(pulls.values())
            for endpoint, member in self.members.items():
                if endpoint not in ended:
                    member.idle(calls * pulls[endpoint] / total, in_flight.get(endpoint, 0), now_s)
        else:
            # Every call may be stuck at one endpoint. It has to lose its weight before they give up, not after: who
            # asks again at once would find it with none in flight, and choose it before the next report.
            for endpoint, count in in_flight.items():
                if count:
                    self.members[endpoint].idle(0.0, count, now_s)
        before, self.weights = self.weights, self._weights()
        return self.weights != before

    def _pulls(self, in_flight: Mapping[Endpoint, int]) -> dict[Endpoint, float]:
        """What the data plane goes by when it picks. Where the others are busy, an idle endpoint with a hundredth of
        their weight is still the first choice: that it gets nothing then says that it is away.
        """
        bias = self._tuning.in_flight_bias if self._policy in _BY_CALLS_IN_FLIGHT else 0.0
        return {
            endpoint: weight / (in_flight.get(endpoint, 0) + 1) ** bias
            for endpoint, weight in self.weights.items()
        }

    def _weights(self) -> dict[Endpoint, int]:
        if self._policy is PolicyName.ROUND_ROBIN:
            return {endpoint: member.weight * SCALE for endpoint, member in self.members.items()}
        factor = self._latency_factors() if self._policy is PolicyName.PEAK_EWMA else {}
        return {
            endpoint: self._stepped(member.weight, member.share * factor.get(endpoint, 1.0))
            for endpoint, member in self.members.items()
        }

    def _latency_factors(self) -> dict[Endpoint, float]:
        tuning = self._tuning
        known = {e: m.latency_ms for e, m in self.members.items() if m.latency_ms is not None}
        # The fastest, but not because it fails fast.
        fastest = min((known[e] for e in known if self.members[e].share >= tuning.recovered), default=0.0)
        if fastest <= 0:
            return {}
        return {
            endpoint: max(
                tuning.latency_floor,
                min(1.0, tuning.latency_alike * fastest / latency) ** tuning.latency_gain,
            )
            for endpoint, latency in known.items()
            if latency > 0
        }

    def _stepped(self, weight: int, share: float) -> int:
        least = self._tuning.floor * self._tuning.latency_floor
        step = round(math.log(max(share, least), STEP))
        return max(1, round(weight * SCALE * STEP**step))
