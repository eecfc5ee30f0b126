"""The less busy of two."""

from __future__ import annotations

import random
from collections.abc import Mapping

from libs.balancing.endpoint import Endpoint
from libs.balancing.two_choices import TwoChoices
from libs.balancing.weight import DynamicWeights


class LeastRequest:
    """Power of two choices: of two endpoints drawn by weight, the one with fewer calls in flight for its weight.

    An endpoint that fails fast has few calls in flight and would draw in ever more of them, so the weights are
    dynamic: failures take them away.
    """

    def __init__(self, members: Mapping[Endpoint, int], rng: random.Random) -> None:
        self._weights = DynamicWeights(members)
        self._choices = TwoChoices(self._weights, rng)
        self._in_flight = dict.fromkeys(members, 0)

    def set_members(self, members: Mapping[Endpoint, int]) -> None:
        self._weights.set_members(members)
        self._in_flight = {endpoint: self._in_flight.get(endpoint, 0) for endpoint in members}

    def pick(self) -> Endpoint:
        one, two = self._choices.draw()
        weights, in_flight = self._weights.effective, self._in_flight
        # in_flight / weight without the division
        best = one if in_flight[one] * weights[two] <= in_flight[two] * weights[one] else two
        in_flight[best] += 1
        return best

    def done(self, endpoint: Endpoint, *, ok: bool, latency_s: float) -> None:
        if endpoint in self._in_flight:
            self._in_flight[endpoint] = max(0, self._in_flight[endpoint] - 1)
            self._weights.observe(endpoint, ok)

    def in_flight(self) -> dict[Endpoint, int]:
        """The calls picked and not yet done, by endpoint."""
        return dict(self._in_flight)
