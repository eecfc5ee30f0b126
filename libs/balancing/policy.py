"""Pick policies: which endpoint takes the next call.

A policy is a pure object: `pick` names an endpoint at once, without waiting, and `done` reports the outcome
of that pick exactly once. Randomness is injected, there is no clock, and nothing here is shared between
threads.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Protocol

from libs.balancing.endpoint import Endpoint
from libs.balancing.weight import DEFAULT_WEIGHT, DynamicWeight


class PolicyName(StrEnum):
    """The policies by the names that configurations give them."""

    ROUND_ROBIN = "round_robin"
    WEIGHTED = "weighted"
    LEAST_REQUEST = "least_request"
    PEAK_EWMA = "peak_ewma"


class NoEndpointError(Exception):
    """The pool is empty."""


class Policy(Protocol):
    def pick(self) -> Endpoint:
        """The endpoint for the next call. Raises NoEndpointError when there is none."""
        ...

    def done(self, endpoint: Endpoint, *, ok: bool) -> None:
        """Reports how a picked call ended. An endpoint that left the pool meanwhile is ignored."""
        ...


class DynamicRoundRobin:
    """Smooth weighted round robin over dynamic weights, the published policy of wuba/dl_inference.

    Every pick adds each endpoint's effective weight to its credit, takes the one with the most credit and
    charges it the sum of all weights. Equal weights give plain round robin; weights 5, 1, 1 give a a b a c a
    a, never five in a row from a cold start.
    """

    def __init__(self, weights: Mapping[Endpoint, int] | Iterable[Endpoint]) -> None:
        given = weights if isinstance(weights, Mapping) else dict.fromkeys(weights, DEFAULT_WEIGHT)
        self._weights = {endpoint: DynamicWeight(weight) for endpoint, weight in given.items()}
        self._credit = dict.fromkeys(self._weights, 0)

    def pick(self) -> Endpoint:
        if not self._weights:
            raise NoEndpointError("the pool has no endpoint")
        total = 0
        for endpoint, weight in self._weights.items():
            self._credit[endpoint] += weight.effective
            total += weight.effective
        best = max(self._credit, key=self._credit.__getitem__)
        self._credit[best] -= total
        return best

    def done(self, endpoint: Endpoint, *, ok: bool) -> None:
        weight = self._weights.get(endpoint)
        if weight is None:
            return
        if ok:
            weight.succeeded()
        else:
            weight.failed()

    def effective(self) -> dict[Endpoint, int]:
        return {endpoint: weight.effective for endpoint, weight in self._weights.items()}


class LeastRequest:
    """Power of two choices: of two endpoints drawn at random, the one with fewer calls in flight.

    Two draws remove nearly all of the imbalance that one leaves, and unlike a scan for the minimum they do
    not send every caller to the same endpoint when the counts are stale.
    """

    def __init__(self, endpoints: Iterable[Endpoint], rng: random.Random) -> None:
        self._in_flight = dict.fromkeys(endpoints, 0)
        self._order = tuple(self._in_flight)
        self._rng = rng

    def pick(self) -> Endpoint:
        if not self._order:
            raise NoEndpointError("the pool has no endpoint")
        if len(self._order) == 1:
            best = self._order[0]
        else:
            one, two = self._rng.sample(self._order, 2)
            best = one if self._in_flight[one] <= self._in_flight[two] else two
        self._in_flight[best] += 1
        return best

    def done(self, endpoint: Endpoint, *, ok: bool) -> None:
        if endpoint in self._in_flight:
            self._in_flight[endpoint] = max(0, self._in_flight[endpoint] - 1)

    def in_flight(self) -> dict[Endpoint, int]:
        return dict(self._in_flight)
