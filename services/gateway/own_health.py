"""How the gateway and its tasks are, for the health service and the status pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from services.gateway.names import task_id_of
from services.gateway.table import Table

# What Envoy said is believed for so long, however many watch.
_AGE_S = 0.5

Membership = Callable[[], Awaitable[Mapping[str, int]]]  # healthy instances by pool. Raises OSError


class Health:
    """Answers by service name: "" is the gateway itself, "69" and "textcnn-69" are the pool of task 69."""

    def __init__(
        self,
        table: Callable[[], Table],
        membership: Membership,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table, self._membership, self._clock = table, membership, clock
        self._lock = asyncio.Lock()
        self._healthy: Mapping[str, int] = {}
        self._until = -1.0

    async def of(self, service: str) -> bool | None:
        """A task has an instance, of its own pool or of one that stands in, that takes calls. None: there is no such
        task."""
        task_id = task_id_of(service)
        task = None if task_id is None else self._table().tasks.get(task_id)
        if task is None:
            return None
        try:
            return (await self._known()).get(task.pool, 0) > 0
        except OSError:
            return False

    async def _known(self) -> Mapping[str, int]:
        async with self._lock:
            if self._clock() >= self._until:
                self._healthy = await self._membership()
                self._until = self._clock() + _AGE_S
            return self._healthy
