"""What an operator may say of a batch queue."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchPolicy:
    """Bounds of one batch queue.

    Attributes:
        max_batch_size: most rows in one run; an item with more is refused as InvalidArgument.
        max_queue_rows: most rows waiting, those in a run not counted; an item beyond is refused as
            ResourceExhausted, or takes the place of the newest of lower priority.
        max_delay_ms: longest time that an incomplete batch is held for company after a run; see `company` for
            when it is. A lone request never waits. None: as long as the measured time of the runs allows; 0: never.
        preferred_batch_sizes: rows that a batch is cut down to, the largest that the waiting rows fill; what
            is cut off heads the next batch. With fewer rows than the smallest of them, all are taken.
        starvation_ms: a ticket that has waited so long is served although tickets of higher priority wait.
            Well above the deadlines of ordinary calls, so that it concerns only those who are ready to wait.
    """

    max_batch_size: int
    max_queue_rows: int
    max_delay_ms: float | None = None
    preferred_batch_sizes: tuple[int, ...] = ()
    starvation_ms: float = 1000.0

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise ValueError(f"max_batch_size is {self.max_batch_size}: expected at least 1 row")
        if self.max_queue_rows < self.max_batch_size:
            raise ValueError(
                f"max_queue_rows is {self.max_queue_rows}: expected at least max_batch_size,"
                f" {self.max_batch_size}, or a full batch could never be queued"
            )
        for name, value in (("max_delay_ms", self.max_delay_ms), ("starvation_ms", self.starvation_ms)):
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}: expected a finite number of milliseconds, 0 or more")
        for size in self.preferred_batch_sizes:
            if not 1 <= size <= self.max_batch_size:
                raise ValueError(
                    f"preferred_batch_sizes has {size}: expected 1 to {self.max_batch_size} (max_batch_size)"
                )
