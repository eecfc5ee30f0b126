"""Two different endpoints, drawn at random by weight.

Comparing two draws removes nearly all of the imbalance that one leaves (Mitzenmacher, "The Power of Two Choices
in Randomized Load Balancing", 1996), and unlike a scan for the minimum it does not send every caller to the same
endpoint when their views are stale.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from itertools import accumulate

from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import NoEndpointError
from libs.balancing.weight import DynamicWeights


class TwoChoices:
    """Draws from a pool's effective weights; a draw is O(log n), and O(n) after a weight changed."""

    def __init__(self, weights: DynamicWeights, rng: random.Random) -> None:
        self._weights = weights
        self._rng = rng
        self._version = -1
        self._order: list[Endpoint] = []
        self._ends: list[int] = []

    def draw(self) -> tuple[Endpoint, Endpoint]:
        """Two endpoints; the same one twice only when there is no other. On a tie take the first: then an idle
        pool is shared in proportion to the weights. Raises NoEndpointError.
        """
        if self._version != self._weights.version:
            self._version = self._weights.version
            self._order = list(self._weights.effective)
            self._ends = list(accumulate(self._weights.effective.values()))
        if not self._order:
            raise NoEndpointError("the pool has no endpoint")
        if len(self._order) == 1:
            return self._order[0], self._order[0]
        total = self._ends[-1]
        first = bisect_right(self._ends, self._rng.randrange(total))
        begin = self._ends[first - 1] if first else 0
        weight = self._ends[first] - begin
        # The second from what is left, as if the first were cut out of the line of weights.
        at = self._rng.randrange(total - weight)
        second = bisect_right(self._ends, at + weight if at >= begin else at)
        return self._order[first], self._order[second]
