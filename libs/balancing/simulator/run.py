"""Plays one scenario with one contender."""

from __future__ import annotations

import random
from dataclasses import dataclass

from libs.balancing.endpoint import Endpoint
from libs.balancing.simulator.contenders import Contender
from libs.balancing.simulator.loop import Loop
from libs.balancing.simulator.replica import REFUSED_S, Attempt
from libs.balancing.simulator.scenarios import Scenario


@dataclass(frozen=True, slots=True)
class Result:
    """`success` is a share; latencies are of all calls, a failed one's until it was given up; `spread` is the calls of
    the replica that got most over the mean; `served` are the calls of each replica.
    """

    scenario: str
    contender: str
    calls: int
    success: float
    p50_s: float
    p99_s: float
    p999_s: float
    spread: float
    served: tuple[int, ...]


class _Call:
    __slots__ = ("bad", "began_s", "gateway", "tries", "work_s")

    def __init__(self, began_s: float, gateway: int, work_s: float, tries: int, bad: bool) -> None:
        self.began_s = began_s
        self.gateway = gateway
        self.work_s = work_s
        self.tries = tries
        self.bad = bad  # fails wherever it goes


class _Run:
    def __init__(self, scenario: Scenario, contender: Contender, seed: int) -> None:
        self._scenario = scenario
        # Every contender meets the same calls; its own dice are others.
        self._arrivals = random.Random(f"{seed} {scenario.name}")
        rng = random.Random(f"{seed} {scenario.name} {contender.name}")
        self._loop = Loop()
        self._replicas = scenario.build(self._loop, rng)
        self._endpoints = [Endpoint(f"10.0.0.{n + 1}", 8500) for n in range(scenario.replicas)]
        self._number = {endpoint: n for n, endpoint in enumerate(self._endpoints)}
        self._balancers = contender.build(
            self._loop, rng, dict.fromkeys(self._endpoints, 100), scenario.gateways
        )
        self._latencies: list[float] = []
        self._succeeded = 0
        self._served = [0] * scenario.replicas

    def play(self) -> None:
        self._next()
        self._loop.run(self._scenario.seconds + self._scenario.timeout_s)

    def result(self, contender: Contender) -> Result:
        ordered = sorted(self._latencies)
        calls = len(ordered)

        def quantile(q: float) -> float:
            return ordered[min(calls - 1, int(q * calls))]

        return Result(
            self._scenario.name,
            contender.name,
            calls,
            self._succeeded / calls,
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            max(self._served) / (sum(self._served) / len(self._served)),
            tuple(self._served),
        )

    def _next(self) -> None:
        """A call comes, and the next one is set."""
        rng, scenario = self._arrivals, self._scenario
        now_s = self._loop.now_s
        if now_s >= scenario.seconds:
            return
        call = _Call(
            now_s,
            rng.randrange(scenario.gateways),
            scenario.work(rng),
            1 + scenario.retries,
            rng.random() < scenario.bad_calls,
        )
        self._try(call, None)
        self._loop.at(now_s + rng.expovariate(scenario.rate), self._next)

    def _try(self, call: _Call, avoid: Endpoint | None) -> None:
        call.tries -= 1
        endpoint = self._balancers.pick(call.gateway, avoid)
        number = self._number[endpoint]
        self._served[number] += 1
        sent_s = self._loop.now_s

        def ended(attempt: Attempt, ok: bool, retriable: bool) -> None:
            if attempt.dropped:
                return
            attempt.dropped = True
            self._balancers.done(call.gateway, endpoint, ok, not retriable, self._loop.now_s - sent_s)
            if retriable and call.tries:
                self._try(call, endpoint)
            else:
                self._close(call, ok)

        attempt = Attempt(call.work_s, ended)
        self._loop.at(call.began_s + self._scenario.timeout_s, self._late, call, attempt, endpoint, sent_s)
        if not self._replicas[number].refusing:
            self._balancers.began(call.gateway, endpoint)
        if call.bad:
            self._loop.at(sent_s + REFUSED_S, ended, attempt, False, False)
        else:
            self._replicas[number].submit(attempt)

    def _late(self, call: _Call, attempt: Attempt, endpoint: Endpoint, sent_s: float) -> None:
        if not attempt.dropped:
            attempt.dropped = True
            self._balancers.done(call.gateway, endpoint, False, False, self._loop.now_s - sent_s)
            self._close(call, False)

    def _close(self, call: _Call, ok: bool) -> None:
        took_s = self._loop.now_s - call.began_s
        self._latencies.append(took_s)
        self._succeeded += ok and took_s <= self._scenario.good_s


def play(scenario: Scenario, contender: Contender, seed: int) -> Result:
    """The same scenario, contender and seed give the same result, whatever else was played."""
    run = _Run(scenario, contender, seed)
    run.play()
    return run.result(contender)
