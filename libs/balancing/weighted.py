"""Turns, by weights that follow the outcomes of the calls."""

from __future__ import annotations

from collections.abc import Mapping

from libs.balancing.endpoint import Endpoint
from libs.balancing.round_robin import take_turn
from libs.balancing.weight import DynamicWeights


class DynamicRoundRobin:
    """Smooth weighted round robin over dynamic weights, the published policy of wuba/dl_inference."""

    def __init__(self, members: Mapping[Endpoint, int]) -> None:
        self._weights = DynamicWeights(members)
        self._credit = dict.fromkeys(members, 0)

    def set_members(self, members: Mapping[Endpoint, int]) -> None:
        self._weights.set_members(members)
        self._credit = {endpoint: self._credit.get(endpoint, 0) for endpoint in members}

    def pick(self) -> Endpoint:
        return take_turn(self._weights.effective, self._credit)

    def done(self, endpoint: Endpoint, *, ok: bool, latency_s: float) -> None:
        self._weights.observe(endpoint, ok)

    def effective(self) -> dict[Endpoint, int]:
        """Each endpoint's weight as its outcomes have left it."""
        return dict(self._weights.effective)
