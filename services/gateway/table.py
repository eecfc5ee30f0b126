"""The routing table: tasks and the instances that serve them. Frozen, validated once, replaced whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from libs.balancing.endpoint import Endpoint

DEFAULT_TIMEOUT_MS = 100
MAX_TIMEOUT_MS = 3_600_000  # an hour: longer than any online call, short enough to catch a typing slip
MAX_TASK_ID = 2**31 - 1  # callers hold the id in a 32-bit signed integer


@dataclass(frozen=True, slots=True)
class Task:
    """One model's pool: its id, the longest that a call may take, and its instances in file order."""

    task_id: int
    timeout_ms: int
    endpoints: tuple[Endpoint, ...]
    line: int = field(default=0, compare=False)

    @property
    def cluster(self) -> str:
        """The name of the pool in the data plane and in its statistics."""
        return f"task-{self.task_id}"


@dataclass(frozen=True, slots=True)
class Table:
    """All tasks by id."""

    tasks: Mapping[int, Task]

    def names(self) -> frozenset[str]:
        """Every host that has to be resolved."""
        return frozenset(e.host for task in self.tasks.values() for e in task.endpoints if e.is_name)
