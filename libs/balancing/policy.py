"""What a pick policy is: it says which endpoint takes the next call.

A policy is a pure object: `pick` names an endpoint at once, without waiting, and `done` reports the outcome
of that pick exactly once. Randomness and clock are injected, and nothing here is shared between threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from libs.balancing.endpoint import Endpoint


class PolicyName(StrEnum):
    """The policies by the names that configurations give them."""

    ROUND_ROBIN = "round_robin"
    WEIGHTED = "weighted"
    LEAST_REQUEST = "least_request"
    PEAK_EWMA = "peak_ewma"


class NoEndpointError(Exception):
    """The pool is empty."""


class Policy(Protocol):
    def set_members(self, members: Mapping[Endpoint, int]) -> None:
        """Makes the pool exactly these, with their weights (at least 1). What is known of one that stays is kept;
        calls in flight to one that leaves may still be reported.
        """
        ...

    def pick(self) -> Endpoint:
        """The endpoint for the next call. Raises NoEndpointError when there is none."""
        ...

    def done(self, endpoint: Endpoint, *, ok: bool, latency_s: float) -> None:
        """Reports how a picked call ended and how long it took, a timeout included. An endpoint that left the
        pool meanwhile is ignored.
        """
        ...
