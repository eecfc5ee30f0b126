"""All policies by name."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from libs.balancing.endpoint import Endpoint
from libs.balancing.least_request import LeastRequest
from libs.balancing.peak_ewma import PeakEwma
from libs.balancing.policy import Policy, PolicyName
from libs.balancing.round_robin import RoundRobin
from libs.balancing.weighted import DynamicRoundRobin


def make(
    name: PolicyName, members: Mapping[Endpoint, int], rng: random.Random, clock: Callable[[], float]
) -> Policy:
    """A policy over members with their weights (at least 1). `clock` gives seconds, like time.monotonic."""
    match name:
        case PolicyName.ROUND_ROBIN:
            return RoundRobin(members)
        case PolicyName.WEIGHTED:
            return DynamicRoundRobin(members)
        case PolicyName.LEAST_REQUEST:
            return LeastRequest(members, rng)
        case PolicyName.PEAK_EWMA:
            return PeakEwma(members, rng, clock)
