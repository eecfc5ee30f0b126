"""How many threads one model call gets, chosen from measured times.

More threads make a large call faster and a small one slower, and the transport (Envoy and the event loop, in this same
process) needs a core of its own while it has much to do per call. Both follow from the numbers: a small model spends
more time on the wire than in the call, a large one the reverse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# CPU time that the transport takes for a request and for a byte of it: measured with an echo on the same server.
_REQUEST_S = 80e-6
_BYTE_S = 1.5e-9
# Measured times closer than this are equal: noise must not cost a core, or a caller's latency.
_TIE = 0.05


@dataclass(frozen=True, slots=True)
class Requests:
    """What the requests of a model are like.

    Attributes:
        rows: of one request.
        bytes: of one request's input.
    """

    rows: int
    bytes: int

    @property
    def transport_s(self) -> float:
        """CPU seconds of the transport for one request."""
        return _REQUEST_S + self.bytes * _BYTE_S


def candidates(cores: int, instances: int) -> list[int]:
    """Thread counts worth measuring: powers of two, all cores of an instance's share, and one less, ascending."""
    share = max(1, cores // instances)
    powers = (1 << exponent for exponent in range(share.bit_length()))
    return sorted({count for count in (*powers, share - 1, share) if 1 <= count <= share})


def requests_per_s(
    seconds: float, threads: int, batch: int, cores: int, instances: int, requests: Requests
) -> float:
    """What the worker can answer when calls of `batch` requests take so many seconds.

    While a core is free, the transport works beside the model. Where none is, its work comes on top: it takes a core
    away from a call whose other threads then wait for that one.
    """
    transport_s = batch * requests.transport_s * instances
    beside = threads * instances < cores
    return instances * batch / (max(seconds, transport_s) if beside else seconds + transport_s)


def choose(
    measured: Mapping[int, Mapping[int, float]], cores: int, instances: int, requests: Requests
) -> int:
    """The best number of threads.

    Best is what answers most requests in the largest calls that were measured; among equals, what answers a lone
    request soonest, and then the least.

    Args:
        measured: seconds of a call, by threads and by requests in it; the same numbers of requests for all threads.
        cores: that this process may use.
        instances: that run at a time.
        requests: what they are like.
    """
    if not measured:
        raise ValueError("no number of threads was measured")
    largest = max(batch for times in measured.values() for batch in times)
    smallest = min(batch for times in measured.values() for batch in times)
    rates = {
        threads: requests_per_s(times[largest], threads, largest, cores, instances, requests)
        for threads, times in measured.items()
    }
    best_rate = max(rates.values())
    fast = [threads for threads, rate in rates.items() if rate >= best_rate * (1 - _TIE)]
    soonest = min(measured[threads][smallest] for threads in fast)
    return min(threads for threads in fast if measured[threads][smallest] <= soonest * (1 + _TIE))
