"""What is compared: the policies as a client would run them, and as the data plane runs them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from libs.balancing.controller import EndpointReport, PoolMembers, WeightController
from libs.balancing.endpoint import Endpoint
from libs.balancing.policies import make
from libs.balancing.policy import PolicyName
from libs.balancing.simulator.envoy import FULL_SCAN, Envoy
from libs.balancing.simulator.loop import Loop
from libs.balancing.simulator.outliers import OutlierSettings


class Balancers(Protocol):
    """The balancers of all gateways, numbered from 0."""

    def pick(self, gateway: int, avoid: Endpoint | None) -> Endpoint: ...

    def done(self, gateway: int, endpoint: Endpoint, ok: bool, answered: bool, latency_s: float) -> None: ...


Build = Callable[[Loop, random.Random, Mapping[Endpoint, int], int], Balancers]


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of the comparison. `build` makes its balancers for some members and gateways."""

    name: str
    build: Build


class _Client:
    """A policy object in each gateway."""

    def __init__(
        self, name: PolicyName, loop: Loop, rng: random.Random, members: Mapping[Endpoint, int], gateways: int
    ) -> None:
        self._policies = [make(name, members, rng, loop.clock) for _ in range(gateways)]

    def pick(self, gateway: int, avoid: Endpoint | None) -> Endpoint:
        policy = self._policies[gateway]
        endpoint = policy.pick()
        for _ in range(8):
            if endpoint is not avoid:
                break
            other = policy.pick()
            policy.done(endpoint, ok=False, latency_s=0.0)
            endpoint = other
        return endpoint

    def done(self, gateway: int, endpoint: Endpoint, ok: bool, answered: bool, latency_s: float) -> None:
        self._policies[gateway].done(endpoint, ok=ok, latency_s=latency_s)


@dataclass(frozen=True, slots=True)
class DataPlane:
    """Envoys under the weight controller, as the gateway sets them up."""

    policy: PolicyName
    choice_count: int = 4
    bias: float = 2.0
    outliers: OutlierSettings | None = field(default_factory=OutlierSettings)
    controlled: bool = True
    report_s: float = 0.5
    push_s: float = 0.02  # from a report to the new weights' being in force
    little: bool = False  # latency by Little's law from the calls in flight, as if nothing measured it

    def __call__(
        self, loop: Loop, rng: random.Random, members: Mapping[Endpoint, int], gateways: int
    ) -> Balancers:
        return _DataPlane(self, loop, rng, members, gateways)


class _DataPlane:
    def __init__(
        self,
        settings: DataPlane,
        loop: Loop,
        rng: random.Random,
        members: Mapping[Endpoint, int],
        gateways: int,
    ) -> None:
        self._settings = settings
        self._loop = loop
        least_request = settings.policy in (PolicyName.LEAST_REQUEST, PolicyName.PEAK_EWMA)
        self.envoys = [
            Envoy(
                members,
                rng,
                least_request=least_request,
                choice_count=settings.choice_count,
                bias=settings.bias,
                outliers=settings.outliers,
            )
            for _ in range(gateways)
        ]
        self.controller = WeightController(loop.clock)
        self.controller.set_pools({"pool": PoolMembers(settings.policy, members)})
        for envoy in self.envoys:
            envoy.set_weights(self.controller.weights("pool"))
        self._windows: list[dict[Endpoint, list[float]]] = [{} for _ in self.envoys]
        for number, _ in enumerate(self.envoys):
            if settings.controlled:
                loop.at(rng.random() * settings.report_s, self._report, number)
            if settings.outliers:
                loop.at(rng.random() * settings.outliers.interval_s, self._sweep, number)

    def pick(self, gateway: int, avoid: Endpoint | None) -> Endpoint:
        return self.envoys[gateway].pick(avoid)

    def done(self, gateway: int, endpoint: Endpoint, ok: bool, answered: bool, latency_s: float) -> None:
        self.envoys[gateway].done(endpoint, ok=ok, answered=answered, now_s=self._loop.now_s)
        row = self._windows[gateway].setdefault(endpoint, [0, 0, 0.0, 0])
        row[0 if ok else 1] += 1
        if answered:
            row[2] += latency_s * 1000
            row[3] += 1

    def _report(self, gateway: int) -> None:
        rows, self._windows[gateway] = self._windows[gateway], {}
        reports = []
        for endpoint in self.controller.weights("pool"):
            ok, failed, latency_ms, answered = rows.get(endpoint, (0, 0, 0.0, 0))
            in_flight = self.envoys[gateway].in_flight(endpoint)
            if self._settings.little:
                answered = ok + failed
                latency_ms = in_flight * self._settings.report_s * 1000
            if ok or failed or in_flight:
                reports.append(
                    EndpointReport(endpoint, int(ok), int(failed), latency_ms, int(answered), in_flight)
                )
        if self.controller.observe("pool", reports):
            weights = self.controller.weights("pool")
            self._loop.at(self._loop.now_s + self._settings.push_s, self._push, weights)
        self._loop.at(self._loop.now_s + self._settings.report_s, self._report, gateway)

    def _push(self, weights: Mapping[Endpoint, int]) -> None:
        for envoy in self.envoys:
            envoy.set_weights(weights)

    def _sweep(self, gateway: int) -> None:
        assert self._settings.outliers is not None
        self.envoys[gateway].sweep(self._loop.now_s)
        self._loop.at(self._loop.now_s + self._settings.outliers.interval_s, self._sweep, gateway)


def _client(name: PolicyName) -> Build:
    return lambda loop, rng, members, gateways: _Client(name, loop, rng, members, gateways)


CLIENTS = tuple(Contender(f"client {name}", _client(name)) for name in PolicyName)
ENVOYS = (
    Contender("envoy round_robin", DataPlane(PolicyName.ROUND_ROBIN)),
    Contender("envoy weighted", DataPlane(PolicyName.WEIGHTED)),
    Contender("envoy least_request, 2 choices", DataPlane(PolicyName.LEAST_REQUEST, choice_count=2)),
    Contender("envoy least_request", DataPlane(PolicyName.LEAST_REQUEST)),
    Contender("envoy peak_ewma", DataPlane(PolicyName.PEAK_EWMA)),
)
# What each part of the data plane adds.
PARTS = (
    Contender("alone", DataPlane(PolicyName.LEAST_REQUEST, outliers=None, controlled=False)),
    Contender("with weights", DataPlane(PolicyName.LEAST_REQUEST, outliers=None)),
    Contender("with ejection", DataPlane(PolicyName.LEAST_REQUEST, controlled=False)),
    Contender("with both", DataPlane(PolicyName.LEAST_REQUEST)),
)
# Of how many random replicas the least busy is taken.
CHOICES = tuple(
    Contender(f"{count or 'all'} choices", DataPlane(PolicyName.LEAST_REQUEST, choice_count=count))
    for count in (2, 3, 4, 5, 8, FULL_SCAN)
)
# Settings that were not taken, beside those that were.
_TRIED = {
    "as it is": OutlierSettings(),
    "5 errors in a row": OutlierSettings(consecutive_failures=5),
    "5 timeouts in a row": OutlierSettings(consecutive_local_origin=5),
    "at once for 1 s": OutlierSettings(base_ejection_s=1.0),
    "1.9 deviations": OutlierSettings(stdev_factor=1.9),
}
EJECTIONS = tuple(
    Contender(name, DataPlane(PolicyName.LEAST_REQUEST, outliers=settings))
    for name, settings in _TRIED.items()
)
