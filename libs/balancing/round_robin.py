"""Turns, by configured weight alone."""

from __future__ import annotations

from collections.abc import Mapping

from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import NoEndpointError


class RoundRobin:
    """Smooth weighted round robin.

    Every pick adds each endpoint's weight to its credit, takes the one with the most credit and charges it the
    sum of all weights. Equal weights take plain turns; weights 5, 1, 1 give a a b a c a a.
    """

    def __init__(self, members: Mapping[Endpoint, int]) -> None:
        self._weights: dict[Endpoint, int] = {}
        self._credit: dict[Endpoint, int] = {}
        self.set_members(members)

    def set_members(self, members: Mapping[Endpoint, int]) -> None:
        self._weights = dict(members)
        self._credit = {endpoint: self._credit.get(endpoint, 0) for endpoint in members}

    def pick(self) -> Endpoint:
        return take_turn(self._weights, self._credit)

    def done(self, endpoint: Endpoint, *, ok: bool, latency_s: float) -> None:
        """Outcomes change nothing."""


def take_turn(weights: Mapping[Endpoint, int], credit: dict[Endpoint, int]) -> Endpoint:
    """One step of smooth weighted round robin over any weights: O(n). Raises NoEndpointError."""
    if not weights:
        raise NoEndpointError("the pool has no endpoint")
    total = 0
    for endpoint, weight in weights.items():
        credit[endpoint] += weight
        total += weight
    best = max(credit, key=credit.__getitem__)
    credit[best] -= total
    return best
