"""Turns load reports into endpoint weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from libs.balancing.endpoint import Endpoint
from libs.balancing.weight import DEFAULT_WEIGHT, DynamicWeight


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """What one data plane saw of one endpoint in one reporting window: finished calls, by outcome."""

    endpoint: Endpoint
    successes: int
    failures: int


class WeightController:
    """The weights of every pool. Pools are named by any string; weights change only in `observe`."""

    def __init__(self, weight: int = DEFAULT_WEIGHT) -> None:
        self._weight = weight
        self._pools: dict[str, dict[Endpoint, DynamicWeight]] = {}

    def set_pools(self, pools: Mapping[str, Iterable[Endpoint]]) -> None:
        """Makes the pools exactly these. An endpoint that stays keeps its weight; a new one starts full."""
        self._pools = {
            pool: {
                endpoint: self._pools.get(pool, {}).get(endpoint) or DynamicWeight(self._weight)
                for endpoint in endpoints
            }
            for pool, endpoints in pools.items()
        }

    def observe(self, pool: str, reports: Iterable[EndpointReport]) -> bool:
        """Applies one window of a pool's reports and says whether a weight changed.

        An endpoint of the pool that had no call while others did counts one success: with 1 % of a small
        pool's calls it could wait minutes for the call that shows its recovery. Reports about a pool or an
        endpoint that has left are ignored: they are late, not wrong.
        """
        weights = self._pools.get(pool)
        if weights is None:
            return False
        before = [weight.effective for weight in weights.values()]
        idle = set(weights)
        for report in reports:
            weight = weights.get(report.endpoint)
            if weight is not None and (report.successes or report.failures):
                idle.discard(report.endpoint)
                weight.observe(report.successes, report.failures)
        if len(idle) < len(weights):
            for endpoint in idle:
                weights[endpoint].succeeded()
        return [weight.effective for weight in weights.values()] != before

    def weights(self, pool: str) -> dict[Endpoint, int]:
        """The effective weight of each endpoint of the pool, in the order they were given; {} if unknown."""
        return {endpoint: weight.effective for endpoint, weight in self._pools.get(pool, {}).items()}
