"""Dynamic weights: an instance that fails loses its share fast and earns it back fast.

The rule is the one that wuba/dl_inference publishes for its balancer, per call:

    success:  effective += (weight - effective + 1) >> 1, up to weight
    failure:  effective >>= 1, never below 1

So with weight 100 seven failures in a row leave 1 % of the share, and seven successes give all of it back.
"""

from __future__ import annotations

from collections.abc import Mapping

from libs.balancing.endpoint import Endpoint

# Fine enough that a halving shows, small enough that the sum over 1,000 instances fits 32 bits.
DEFAULT_WEIGHT = 100


class DynamicWeight:
    """The effective weight of one instance."""

    __slots__ = ("effective", "weight")

    def __init__(self, weight: int = DEFAULT_WEIGHT) -> None:
        if weight < 1:
            raise ValueError(f"weight is {weight}, expected at least 1")
        self.weight = weight
        self.effective = weight

    def succeeded(self) -> None:
        if self.effective < self.weight:
            self.effective += (self.weight - self.effective + 1) >> 1

    def failed(self) -> None:
        self.effective = max(1, self.effective >> 1)


class DynamicWeights:
    """The effective weights of a pool. `version` steps whenever one of them changes."""

    def __init__(self, members: Mapping[Endpoint, int]) -> None:
        self._weights = {endpoint: DynamicWeight(weight) for endpoint, weight in members.items()}
        self.effective = dict(members)
        self.version = 0

    def set_members(self, members: Mapping[Endpoint, int]) -> None:
        """Makes the pool exactly these. One that stays with the same weight keeps its effective weight."""
        kept = self._weights
        self._weights = {
            endpoint: (
                kept[endpoint]
                if endpoint in kept and kept[endpoint].weight == weight
                else DynamicWeight(weight)
            )
            for endpoint, weight in members.items()
        }
        self.effective = {endpoint: weight.effective for endpoint, weight in self._weights.items()}
        self.version += 1

    def observe(self, endpoint: Endpoint, ok: bool) -> None:
        """Applies the rule to one call. Strangers are ignored."""
        weight = self._weights.get(endpoint)
        if weight is None:
            return
        if ok:
            weight.succeeded()
        else:
            weight.failed()
        if weight.effective != self.effective[endpoint]:
            self.effective[endpoint] = weight.effective
            self.version += 1


def after_window(share: float, successes: int, failures: int) -> float:
    """The rule applied to a window whose calls come in an unknown order: the share of its weight (0 to 1) that an
    endpoint may be expected to have after it.

    With failures at ratio f a call takes the share s to s / 2 with probability f and to (s + 1) / 2 otherwise, on
    average to (s + 1 - f) / 2. So the share tends to 1 - f, and each call halves what is left of the past.
    """
    calls = successes + failures
    if calls == 0:
        return share
    goal = successes / calls
    return goal + (share - goal) * 0.5 ** min(calls, 1000)
