from __future__ import annotations

from benchmarks.peer_load import Measured
from benchmarks.peer_servers import WORKER
from benchmarks.peers import verdict


def results(worker: float, **peers: float) -> dict[tuple[str, int], Measured]:
    return {(name, 16): Measured(rate, 1.0) for name, rate in {WORKER.name: worker, **peers}.items()}


def test_the_best_peer_decides() -> None:
    line = verdict(results(9000, slow=100, fast=2000), ["slow", "fast"], [16])
    assert line == "worker / best peer: 4.50 at 16 in flight (fast); the bar of 3 is met"


def test_a_missed_bar_is_said_for_each_number_of_calls() -> None:
    both = {
        **results(9000, fast=2000),
        (WORKER.name, 64): Measured(9000, 1.0),
        ("fast", 64): Measured(6000, 1.0),
    }
    line = verdict(both, ["fast"], [16, 64])
    assert line.endswith("1.50 at 64 in flight (fast); the bar of 3 is missed at 64")


def test_nothing_is_claimed_without_the_worker_or_without_peers() -> None:
    assert verdict(results(9000), ["fast"], [16]).endswith("not measured")
    assert verdict({("fast", 16): Measured(1.0, 1.0)}, ["fast"], [16]).endswith("not measured")
