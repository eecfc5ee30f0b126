"""What a `Batcher` tells of its work."""

from __future__ import annotations

from typing import Protocol


class BatchObserver(Protocol):
    """Told about every batch; all calls come on the event loop's thread, so plain counters suffice."""

    def ran(self, items: int, rows: int, waited_s: float, run_s: float) -> None:
        """A batch ran; `waited_s` is how long its oldest item had been queued."""

    def dropped(self, reason: str, items: int) -> None:
        """Items left the queue without a run: `expired`, `cancelled`, `withdrawn`, `rejected`, `shed` or
        `closed`."""


class Unobserved:
    """Listens to nothing."""

    def ran(self, items: int, rows: int, waited_s: float, run_s: float) -> None:
        pass

    def dropped(self, reason: str, items: int) -> None:
        pass
