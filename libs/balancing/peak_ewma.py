"""The cheaper of two by latency and load, as finagle and linkerd balance."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from libs.balancing.endpoint import Endpoint
from libs.balancing.two_choices import TwoChoices
from libs.balancing.weight import DynamicWeights

# finagle's decay time. Long against a call, so that one good answer does not hide a bad minute; short against an
# operator's patience: an endpoint that was ten times slower than the others is asked again after 23 s (10 ln 10)
# at the latest, and earlier under load.
TAU_S = 10.0

# More than any latency times any number of calls in flight: an endpoint that has not answered yet gets one call,
# and the next only after an endpoint that has.
_NO_SAMPLE_S = 1e9


class PeakLatency:
    """A latency that jumps to a peak at once and decays by exp(-elapsed / tau) until a call takes longer than what is
    left of it.

    finagle averages what is left with the new sample over the time since it last looked. It looks at every pick, so
    that this time is next to nothing and its average is the larger of the two, which is what this one takes.
    """

    __slots__ = ("_at", "_peak_s", "_tau_s")

    def __init__(self, tau_s: float, now_s: float) -> None:
        self._tau_s = tau_s
        self._peak_s = 0.0
        self._at = now_s

    def observe(self, latency_s: float, now_s: float) -> None:
        if latency_s > self.value(now_s):
            self._peak_s = latency_s
            self._at = now_s

    def value(self, now_s: float) -> float:
        """Seconds; 0 before the first sample. It decays to 0 without samples, so that an endpoint which nobody
        asks any more is asked again some time. Reading changes nothing.
        """
        return self._peak_s * math.exp(-max(0.0, now_s - self._at) / self._tau_s)


class _Load:
    __slots__ = ("in_flight", "latency")

    def __init__(self, tau_s: float, now_s: float) -> None:
        self.latency = PeakLatency(tau_s, now_s)
        self.in_flight = 0

    def cost(self, now_s: float) -> float:
        latency_s = self.latency.value(now_s)
        if latency_s == 0.0 and self.in_flight:
            return _NO_SAMPLE_S + self.in_flight
        return latency_s * (self.in_flight + 1)


class PeakEwma:
    """Of two endpoints drawn by weight, the one whose next call costs less: its decaying peak latency times the
    calls in flight with this one, over the weight.

    The time that the next caller may expect to wait when an endpoint works its calls off one after the other.
    Weights are dynamic for the same reason as in LeastRequest.
    """

    def __init__(
        self,
        members: Mapping[Endpoint, int],
        rng: random.Random,
        clock: Callable[[], float],
        tau_s: float = TAU_S,
    ) -> None:
        """`clock` gives seconds and never runs backwards."""
        self._clock = clock
        self._tau_s = tau_s
        self._weights = DynamicWeights(members)
        self._choices = TwoChoices(self._weights, rng)
        now_s = clock()
        self._loads = {endpoint: _Load(tau_s, now_s) for endpoint in members}

    def set_members(self, members: Mapping[Endpoint, int]) -> None:
        self._weights.set_members(members)
        now_s = self._clock()
        self._loads = {
            endpoint: self._loads.get(endpoint) or _Load(self._tau_s, now_s) for endpoint in members
        }

    def pick(self) -> Endpoint:
        one, two = self._choices.draw()
        now_s, weights = self._clock(), self._weights.effective
        cost_one = self._loads[one].cost(now_s) * weights[two]
        cost_two = self._loads[two].cost(now_s) * weights[one]
        best = one if cost_one <= cost_two else two
        self._loads[best].in_flight += 1
        return best

    def done(self, endpoint: Endpoint, *, ok: bool, latency_s: float) -> None:
        load = self._loads.get(endpoint)
        if load is None:
            return
        load.in_flight = max(0, load.in_flight - 1)
        load.latency.observe(latency_s, self._clock())  # failing slowly is slow; failing fast is no peak
        self._weights.observe(endpoint, ok)

    def costs(self) -> dict[Endpoint, float]:
        """What the next call to each endpoint would cost, seconds. Reading changes nothing."""
        now_s = self._clock()
        return {endpoint: load.cost(now_s) for endpoint, load in self._loads.items()}
