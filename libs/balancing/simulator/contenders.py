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
from libs.balancing.tuning import DEFAULT, Tuning


class Balancers(Protocol):
    """The balancers of all gateways, numbered from 0."""

    def pick(self, gateway: int, avoid: Endpoint | None) -> Endpoint: ...

    def began(self, gateway: int, endpoint: Endpoint) -> None:
        """The call was not refused."""
        ...

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
            # A policy cannot be told whom to avoid: the pick that is not used counts as the failure it would be.
            policy.done(endpoint, ok=False, latency_s=0.0)
            endpoint = other
        return endpoint

    def began(self, gateway: int, endpoint: Endpoint) -> None:
        """That a call was sent changes nothing."""

    def done(self, gateway: int, endpoint: Endpoint, ok: bool, answered: bool, latency_s: float) -> None:
        self._policies[gateway].done(endpoint, ok=ok, latency_s=latency_s)


@dataclass(frozen=True, slots=True)
class DataPlane:
    """Envoys under the weight controller, as the gateway sets them up."""

    policy: PolicyName
    choice_count: int = 4
    outliers: OutlierSettings | None = field(default_factory=OutlierSettings)
    controlled: bool = True
    report_s: float = 0.5
    push_s: float = 0.02  # from a report to the new weights' being in force
    tuning: Tuning = DEFAULT
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
                bias=settings.tuning.in_flight_bias,
                outliers=settings.outliers,
            )
            for _ in range(gateways)
        ]
        self.controller = WeightController(loop.clock, settings.tuning)
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

    def began(self, gateway: int, endpoint: Endpoint) -> None:
        self.envoys[gateway].began(endpoint)

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
    "for 2 s at first": OutlierSettings(base_ejection_s=2.0),
    "1.9 deviations": OutlierSettings(stdev_factor=1.9),
}
EJECTIONS = tuple(
    Contender(name, DataPlane(PolicyName.LEAST_REQUEST, outliers=settings))
    for name, settings in _TRIED.items()
)
# How latency becomes a weight: Envoy's bias and the power of the latency, how soon a peak is forgotten, latencies that
# count as equal, and latency by Little's law.
_LATENCY = {
    "bias 2, power 2": DataPlane(PolicyName.PEAK_EWMA),
    "bias 1, power 1": DataPlane(PolicyName.PEAK_EWMA, tuning=Tuning(in_flight_bias=1.0, latency_gain=1.0)),
    "bias 1, power 2": DataPlane(PolicyName.PEAK_EWMA, tuning=Tuning(in_flight_bias=1.0)),
    "bias 2, power 1": DataPlane(PolicyName.PEAK_EWMA, tuning=Tuning(latency_gain=1.0)),
    "bias 3, power 3": DataPlane(
        PolicyName.PEAK_EWMA, tuning=Tuning(in_flight_bias=3.0, latency_gain=3.0, latency_floor=1 / 1000)
    ),
    "tau 1.5 s": DataPlane(PolicyName.PEAK_EWMA, tuning=Tuning(latency_tau_s=1.5)),
    "tau 6 s": DataPlane(PolicyName.PEAK_EWMA, tuning=Tuning(latency_tau_s=6.0)),
    "alike 1": DataPlane(PolicyName.PEAK_EWMA, tuning=Tuning(latency_alike=1.0)),
    "alike 2": DataPlane(PolicyName.PEAK_EWMA, tuning=Tuning(latency_alike=2.0)),
    "Little's law": DataPlane(PolicyName.PEAK_EWMA, little=True),
}
LATENCIES = tuple(Contender(name, plane) for name, plane in _LATENCY.items())
# How fast a share comes back, where nothing else protects a cold instance.
RAMPS = tuple(
    Contender(
        f"from 1/{round(1 / start)}, x 2 in {doubling:g} s",
        DataPlane(PolicyName.WEIGHTED, tuning=Tuning(start=start, doubling_s=doubling)),
    )
    for start, doubling in (
        (1 / 16, 1.0),
        (1.0, 0.5),
        (1 / 16, 0.25),
        (1 / 16, 0.5),
        (1 / 16, 2.0),
        (1 / 64, 1.0),
    )
)
GROUPS = {
    "envoy": ENVOYS,
    "client": CLIENTS,
    "parts": PARTS,
    "choices": CHOICES,
    "ejections": EJECTIONS,
    "latencies": LATENCIES,
    "ramps": RAMPS,
}
