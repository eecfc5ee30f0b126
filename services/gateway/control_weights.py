"""The weights of every pool's instances: reports of Envoys and latencies in, weights for the load assignments out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from libs.balancing.controller import EndpointReport, PoolMembers, WeightController
from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import PolicyName
from services.gateway.metrics_counters import InstanceCounts
from services.gateway.table import Table

Key = tuple[str, Endpoint]  # pool and instance


class Weights:
    """Follows the table; `observe` and `observe_latencies` name the pools whose weights they changed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._controller = WeightController(clock)
        self._by_latency: frozenset[str] = frozenset()
        self._counts: dict[Key, InstanceCounts] = {}

    @property
    def uses_latency(self) -> bool:
        """A pool spreads its calls by latency."""
        return bool(self._by_latency)

    def set_pools(self, table: Table, groups: Mapping[str, Sequence[Mapping[Endpoint, int]]]) -> None:
        """Makes the pools exactly the table's. `groups` are each pool's instances with their configured weights; one
        that stands in for others has the weight that its own pool gives it."""
        members: dict[str, PoolMembers] = {}
        for name, found in groups.items():
            weights: dict[Endpoint, int] = {}
            for group in found:
                for endpoint, weight in group.items():
                    weights.setdefault(endpoint, weight)
            members[name] = PoolMembers(table.pools[name].policy, weights)
        self._controller.set_pools(members)
        self._by_latency = frozenset(
            name for name, pool in members.items() if pool.policy is PolicyName.PEAK_EWMA
        )
        self._counts = {key: counts for key, counts in self._counts.items() if key[0] in self._by_latency}

    def observe(self, reports: Mapping[str, Iterable[EndpointReport]]) -> list[str]:
        """What one Envoy saw in one window."""
        return [pool for pool, found in reports.items() if self._controller.observe(pool, found)]

    def observe_latencies(self, counts: Mapping[Key, InstanceCounts]) -> list[str]:
        """The instances' answers and their time so far: what came since the last look counts."""
        reports: dict[str, list[EndpointReport]] = {}
        earlier, self._counts = self._counts, {}
        for (pool, endpoint), now in counts.items():
            if pool not in self._by_latency:
                continue
            before = earlier.get((pool, endpoint))
            self._counts[pool, endpoint] = now
            if before is None:
                continue  # since when they were counted is not known
            answered = now.answered - before.answered
            if answered > 0:
                took_ms = (now.latency_us - before.latency_us) / 1000
                reports.setdefault(pool, []).append(EndpointReport(endpoint, 0, 0, took_ms, answered))
        return self.observe(reports)

    def of(self, pool: str) -> dict[Endpoint, int]:
        """A pool's weights for Envoy as they are now; {} if it is unknown."""
        return self._controller.weights(pool)

    def effective(self, pool: str) -> dict[Endpoint, int]:
        """The same for people, on the scale of the configuration."""
        return self._controller.effective(pool)
