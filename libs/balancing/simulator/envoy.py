"""How Envoy picks: its round robin and least request load balancers, driven by weights from outside.

Facts from Envoy's sources: while all weights are equal, round robin takes turns and least request takes the least
busy of `choice_count` random hosts (the same one may be drawn twice) or of all hosts (FULL_SCAN). When any weight
differs, both follow an earliest-deadline-first schedule in which a pick moves a host on by 1 / weight, where least
request divides the weight by (calls in flight + 1) ** active_request_bias as it is at that moment. The schedule is
built anew, at a random point of its course, whenever a weight or the set of hosts changes. A retry asks for another
host up to `host_selection_retry_max_attempts` times and then takes what it has.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Mapping

from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import NoEndpointError
from libs.balancing.simulator.outliers import Outliers, OutlierSettings

FULL_SCAN = 0
_RETRY_ATTEMPTS = 64


class Envoy:
    """One Envoy's view of one cluster."""

    def __init__(
        self,
        members: Iterable[Endpoint],
        rng: random.Random,
        *,
        least_request: bool,
        choice_count: int = 2,
        bias: float = 2.0,
        outliers: OutlierSettings | None = None,
    ) -> None:
        self._rng = rng
        self._least_request = least_request
        self._choice_count = choice_count
        self._bias = bias
        self._weights = dict.fromkeys(members, 1)
        self._in_flight = dict.fromkeys(self._weights, 0)
        self.outliers = Outliers(self._weights, outliers) if outliers else None
        self._hosts: list[Endpoint] = []
        self._schedule: list[tuple[float, int, Endpoint]] | None = None
        self._turn = rng.randrange(1 << 16)
        self._order = 0
        self._refresh()

    def set_weights(self, weights: Mapping[Endpoint, int]) -> None:
        self._weights = dict(weights)
        self._refresh()

    def pick(self, avoid: Endpoint | None = None) -> Endpoint:
        """The host of the next call; `avoid` is not taken if another one is found in some tries."""
        if not self._hosts:
            raise NoEndpointError("the pool has no endpoint")
        best = self._pick()
        for _ in range(_RETRY_ATTEMPTS):
            if best is not avoid:
                break
            best = self._pick()
        self._in_flight[best] += 1
        return best

    def began(self, endpoint: Endpoint) -> None:
        """The call picked last is on a connection."""
        if self.outliers is not None:
            self.outliers.began(endpoint)

    def done(self, endpoint: Endpoint, *, ok: bool, answered: bool, now_s: float) -> None:
        self._in_flight[endpoint] -= 1
        if self.outliers is not None and self.outliers.observe(endpoint, ok, answered, now_s):
            self._refresh()

    def sweep(self, now_s: float) -> None:
        if self.outliers is not None and self.outliers.sweep(now_s):
            self._refresh()

    def in_flight(self, endpoint: Endpoint) -> int:
        return self._in_flight[endpoint]

    def _refresh(self) -> None:
        ejected = self.outliers.ejected() if self.outliers else frozenset()
        self._hosts = [endpoint for endpoint in self._weights if endpoint not in ejected] or list(
            self._weights
        )
        if len({self._weights[endpoint] for endpoint in self._hosts}) <= 1:
            self._schedule = None
            return
        self._schedule = [
            (self._rng.random() / self._weight(endpoint), number, endpoint)
            for number, endpoint in enumerate(self._hosts)
        ]
        self._order = len(self._hosts)
        heapq.heapify(self._schedule)

    def _weight(self, endpoint: Endpoint) -> float:
        weight = float(self._weights[endpoint])
        return weight / (self._in_flight[endpoint] + 1) ** self._bias if self._least_request else weight

    def _pick(self) -> Endpoint:
        if self._schedule is not None:
            deadline, _, best = self._schedule[0]
            self._order += 1
            heapq.heapreplace(self._schedule, (deadline + 1 / self._weight(best), self._order, best))
            return best
        hosts, in_flight = self._hosts, self._in_flight
        if not self._least_request:
            self._turn += 1
            return hosts[self._turn % len(hosts)]
        if self._choice_count == FULL_SCAN:
            least = min(in_flight[endpoint] for endpoint in hosts)
            ties = [endpoint for endpoint in hosts if in_flight[endpoint] == least]
            return ties[int(self._rng.random() * len(ties))]
        best = hosts[int(self._rng.random() * len(hosts))]
        for _ in range(self._choice_count - 1):
            other = hosts[int(self._rng.random() * len(hosts))]
            if in_flight[other] < in_flight[best]:
                best = other
        return best
