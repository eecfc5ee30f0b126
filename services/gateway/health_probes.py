"""Finds out which pools' instances have the health service, so that `health_check = "auto"` asks the right question.

Seldom, and slowly: a pool is looked at when its instances change, and every ten minutes. That thousands of pools start
together must not keep the control plane from anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from libs.balancing.endpoint import Endpoint
from services.gateway.table import BackendTls, HealthCheck

CONCURRENT = 32
_PER_S = 64  # probes; each costs the control plane about a millisecond
_AGAIN_S = 600.0
_SILENT_AGAIN_S = 15.0  # doubled each time
# Each change of a pool's check makes Envoy build the pool anew: those found together go together.
_GATHER_S = 5.0


class Answer(Enum):
    """What an instance said to grpc.health.v1.Health/Check."""

    STATUS = "status"  # SERVING or NOT_SERVING
    REFUSED = "refused"  # anything else: it does not have the service, or not for this question
    SILENT = "silent"  # nothing: away, or starting


@dataclass(frozen=True, slots=True)
class Target:
    """One instance, and how it is reached."""

    endpoint: Endpoint
    tls: BackendTls | None = None
    server_name: str = ""  # that its certificate must hold


Ask = Callable[[Target], Awaitable[Answer]]


def decide(answers: Iterable[Answer]) -> HealthCheck | None:
    """How a pool is to be checked; None while nobody has said anything."""
    said = set(answers) - {Answer.SILENT}
    if not said:
        return None
    return HealthCheck.GRPC if said == {Answer.STATUS} else HealthCheck.HTTP2


@dataclass(slots=True)
class _Known:
    answer: Answer = Answer.SILENT
    due: float = 0.0
    pause_s: float = _SILENT_AGAIN_S


class HealthProbes:
    """`health` says what was found, by pool; `on_change` is called when that changed."""

    def __init__(
        self,
        ask: Ask,
        on_change: Callable[[], None],
        health: Mapping[str, HealthCheck] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`health` is what was known before."""
        self.health: Mapping[str, HealthCheck] = dict(health or {})
        self._ask, self._on_change, self._clock = ask, on_change, clock
        self._pools: Mapping[str, Sequence[Target]] = {}
        self._known: dict[Target, _Known] = {}
        self._fresh = asyncio.Event()
        self._told_at = -_GATHER_S

    def use(self, pools: Mapping[str, Sequence[Target]]) -> None:
        """Makes the pools that are looked at exactly these."""
        self._pools = pools
        targets = {target for found in pools.values() for target in found}
        fresh = targets - self._known.keys()
        self._known = {target: self._known.get(target) or _Known(due=self._clock()) for target in targets}
        self.health = {pool: kind for pool, kind in self.health.items() if pool in pools}
        if fresh:
            self._fresh.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._fresh.clear()
            await self.look()
            now = self._clock()
            pause = min((known.due for known in self._known.values()), default=now + _AGAIN_S) - now
            try:
                await asyncio.wait_for(self._fresh.wait(), max(0.1, pause))
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Asks all whose turn it is."""
        while True:
            now = self._clock()
            due = [target for target, known in self._known.items() if known.due <= now][:CONCURRENT]
            if not due:
                self._tell()
                return
            answers = await asyncio.gather(*(self._ask(target) for target in due))
            for target, answer in zip(due, answers, strict=True):
                self._heard(target, answer)
            if self._clock() - self._told_at >= _GATHER_S:
                self._tell()
            await asyncio.sleep(max(0.0, len(due) / _PER_S - (self._clock() - now)))

    def _heard(self, target: Target, answer: Answer) -> None:
        known = self._known.get(target)
        if known is None:
            return  # it left meanwhile
        if answer is Answer.SILENT:
            # What it said before still holds: it may only be starting again.
            known.due = self._clock() + known.pause_s
            known.pause_s = min(_AGAIN_S, 2 * known.pause_s)
        else:
            known.answer, known.due, known.pause_s = answer, self._clock() + _AGAIN_S, _SILENT_AGAIN_S

    def _tell(self) -> None:
        self._told_at = self._clock()
        found = dict(self.health)
        for pool, targets in self._pools.items():
            kind = decide(self._known[target].answer for target in targets)
            if kind is not None:
                found[pool] = kind
        if found != self.health:
            self.health = found
            self._on_change()
