from __future__ import annotations

import threading
from typing import Any

import pytest

from services.tf_serving.monitoring.runs import BatchStats, LoadStats


def families(stats: BatchStats | LoadStats) -> dict[str, Any]:
    return {family.name.rpartition(":")[2]: family for family in stats.families()}


def test_batches() -> None:
    stats = BatchStats("pool")
    assert not any(family.counters or family.histograms for family in families(stats).values())
    stats.given(3, inputs=2)
    stats.given(1, inputs=2)
    stats.ran(4, 8, (0.001, 0.0005))
    stats.ran(8, 8, (0.0,))
    found = families(stats)
    assert found["wrapped_run_count"].counters == {(): 2}
    given = found["input_batch_size"].histograms[()]
    assert (sum(given.counts), given.total) == (4, 8)
    processed = found["processed_batch_size"].histograms[()]
    assert (sum(processed.counts), processed.total) == (2, 16)
    padding = found["padding_size"].histograms[("8",)]
    assert (sum(padding.counts), padding.total) == (2, 4)
    queuing = found["queuing_latency"].histograms[("pool",)]
    assert (sum(queuing.counts), queuing.total) == (3, pytest.approx(1500.0))
    assert (len(given.bounds), len(queuing.bounds)) == (14, 52)


def test_batches_of_several_threads() -> None:
    stats = BatchStats("pool")

    def work() -> None:
        for _ in range(2000):
            stats.ran(1, 2, (0.0,))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = families(stats)
    assert found["wrapped_run_count"].counters == {(): 8000}
    assert found["padding_size"].histograms[("2",)].total == 8000


def test_loads() -> None:
    stats = LoadStats()
    stats.loaded("/m/1", 0.5, well=True)
    stats.loaded("/m/1", 0.25, well=True)
    stats.loaded("/m/2", 1.0, well=False)
    stats.warmed_up("/m/1", 0.002, 7, "OK")
    found = families(stats)
    assert found["load_attempt_count"].counters == {("/m/1", "success"): 2, ("/m/2", "fail"): 1}
    assert found["load_latency"].counters == {("/m/1",): 750_000}
    assert found["model_warmup_records_read"].counters == {("/m/1", "OK"): 7}
    assert found["model_warmup_latency"].histograms[("/m/1", "OK")].total == pytest.approx(2000.0)
