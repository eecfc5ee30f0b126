"""How busy a server is, told with every answer: the ORCA load report, from which balancers can weigh instances.

Message xds.data.orca.v3.OrcaLoadReport, in the trailer `endpoint-load-metrics-bin`; see gRFC A51
(https://github.com/grpc/proposal/blob/master/A51-custom-backend-metrics.md) and A58, client-side weighted round robin,
which goes by `application_utilization`, `rps_fractional` and `eps`.

A report is sampled a few times a second and its bytes are attached as they are: the calls do no work for it.
"""

from __future__ import annotations

import os
import struct
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

from libs.serving.protowire import block

TRAILER = b"endpoint-load-metrics-bin"
INTERVAL_S = 0.2
"""How often a report is renewed."""

# Rates are averaged over about so long: shorter than a balancer's weight period (gRFC A58: 1 s), longer than a batch.
_AVERAGE_S = 1.0


@dataclass(frozen=True, slots=True)
class Totals:
    """What a server has done since it started.

    Attributes:
        cpu_s: CPU seconds of the process.
        busy_s: seconds that model threads were running calls, of all threads together.
        calls: finished calls.
        failed: those that failed by the server's fault.
    """

    cpu_s: float
    busy_s: float
    calls: int
    failed: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Fields of OrcaLoadReport; shares are of what the process may use, 0 to 1, above 1 where more is asked for.

    Attributes:
        cpu_utilization: of the cores.
        application_utilization: what bounds the server: how busy the model is, or the cores if those are busier.
        rps: finished calls a second.
        eps: failed calls a second.
        queue_utilization: of the queue's bound, as `utilization["queue"]`.
    """

    cpu_utilization: float
    application_utilization: float
    rps: float
    eps: float
    queue_utilization: float

    def serialized(self) -> bytes:
        """The protobuf message. Fields of value 0 are left out."""
        numbers = (
            (1, self.cpu_utilization),
            (6, self.rps),
            (7, self.eps),
            (9, self.application_utilization),
        )
        message = b"".join(_double(field, value) for field, value in numbers if value)
        if self.queue_utilization:
            message += block(5, block(1, b"queue") + _double(2, self.queue_utilization))
        return message

    def trailer(self) -> tuple[bytes, bytes]:
        """Name and value of the trailer; binary values are base64 without padding (gRPC over HTTP/2)."""
        return TRAILER, b64encode(self.serialized()).rstrip(b"=")


class LoadMeter:
    """Makes reports of totals. Pure; the clock is the caller's.

    Args:
        cores: how many the process may use.
        model_threads: how many model calls may run at a time.
        totals: at the time `now`.
    """

    def __init__(self, cores: int, model_threads: int, totals: Totals, now: float) -> None:
        self._cores = cores
        self._model_threads = model_threads
        self._totals = totals
        self._at = now
        self._rates = (0.0, 0.0, 0.0, 0.0)

    def report(self, totals: Totals, queue_utilization: float, now: float) -> LoadReport:
        """The report of this moment; an average that forgets within seconds."""
        elapsed = now - self._at
        if elapsed > 0:
            last = self._totals
            self._totals, self._at = totals, now
            deltas = (
                totals.cpu_s - last.cpu_s,
                totals.busy_s - last.busy_s,
                totals.calls - last.calls,
                totals.failed - last.failed,
            )
            share = min(1.0, elapsed / _AVERAGE_S)
            cpu, busy, rps, eps = (
                rate + share * (max(delta, 0) / elapsed - rate)
                for rate, delta in zip(self._rates, deltas, strict=True)
            )
            self._rates = (cpu, busy, rps, eps)
        cpu, busy, rps, eps = self._rates
        cpu_share = cpu / self._cores
        return LoadReport(
            cpu_utilization=cpu_share,
            application_utilization=max(cpu_share, busy / self._model_threads),
            rps=rps,
            eps=eps,
            queue_utilization=queue_utilization,
        )


def cpu_seconds() -> float:
    """User and system time of this process."""
    times = os.times()
    return times.user + times.system


Sample = Callable[[float], LoadReport]
"""Makes the report of a moment, on the clock of the server."""


def _double(field: int, value: float) -> bytes:
    return bytes((field << 3 | 1,)) + struct.pack("<d", value)
