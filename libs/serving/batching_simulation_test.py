"""The policies under simulated traffic: what the defaults were chosen for, by seed."""

from __future__ import annotations

import pytest

from libs.serving.batching import BatchPolicy, BatchQueue, Ticket
from libs.serving.batching_report import BOUNDS, LINEAR, MEDIUM, QUICK, overload, picture
from libs.serving.batching_simulation import (
    FixedDelay,
    Model,
    NewestFirst,
    Outcome,
    Queue,
    RowsOnly,
    bursts,
    poisson,
    simulate,
)


def _adaptive(model: Model, max_delay_ms: float | None = None) -> Queue:
    return BatchQueue(BatchPolicy(model.max_batch_size, 1024, max_delay_ms))


def _run(model: Model, queue: Queue, callers: int = 0, load: float = 0.0, burst: int = 1) -> Outcome:
    seconds = 400 * (model.base_s + model.row_s)
    arrivals = None if callers else bursts(load * model.capacity, burst)
    return simulate(queue, model, seconds=seconds, callers=callers, arrivals=arrivals)


@pytest.mark.parametrize(("callers", "gain"), [(2, 1.6), (16, 1.4), (64, 1.2)])
def test_holding_for_callers_who_return_pays(callers: int, gain: float) -> None:
    held = _run(MEDIUM, _adaptive(MEDIUM), callers)
    still = _run(MEDIUM, _adaptive(MEDIUM, 0), callers)
    assert held.rate > gain * still.rate
    assert held.quantile_ms(0.99) < still.quantile_ms(0.99)


@pytest.mark.parametrize("model", [QUICK, MEDIUM, LINEAR], ids=lambda model: model.name)
@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("burst", [1, 16])
def test_strangers_are_not_held(model: Model, load: float, burst: int) -> None:
    held = _run(model, _adaptive(model), load=load, burst=burst)
    still = _run(model, _adaptive(model, 0), load=load, burst=burst)
    assert held.quantile_ms(0.5) < 1.08 * still.quantile_ms(0.5)
    assert held.rate > 0.95 * still.rate


def test_a_lone_caller_is_not_held() -> None:
    for model in (QUICK, MEDIUM, LINEAR):
        held = _run(model, _adaptive(model), 1)
        assert held.latencies_s == _run(model, _adaptive(model, 0), 1).latencies_s


def test_a_fixed_delay_costs_a_lone_caller_all_of_it() -> None:
    queue = FixedDelay(BatchPolicy(64, 1024), 0.005)
    assert _run(QUICK, queue, 1).quantile_ms(0.5) > 5


@pytest.mark.parametrize("model", [MEDIUM, LINEAR], ids=lambda model: model.name)
def test_overload_costs_little_goodput(model: Model) -> None:
    ours = {load: overload(model, BOUNDS["refuse the late (ours)"], load) for load in (1.2, 3.0)}
    assert min(found.goodput for found in ours.values()) > 0.92 * model.capacity
    assert all(found.rate - found.goodput < 0.05 * model.capacity for found in ours.values())
    assert overload(model, BOUNDS["rows only"], 3.0).goodput < 0.1 * model.capacity


def test_every_request_of_a_simulation_has_one_outcome() -> None:
    for make in (BatchQueue, RowsOnly, NewestFirst):
        queue: BatchQueue[Ticket[int]] = make(BatchPolicy(64, 256))
        arrivals = 0

        def counted(random_: object) -> float:
            nonlocal arrivals
            arrivals += 1
            return 0.0004 if arrivals <= 5000 else 1e9

        found = simulate(queue, MEDIUM, seconds=1e3, arrivals=counted, deadline_s=0.2, warm_up=0)
        outcomes = (len(found.latencies_s), found.refused, found.dropped)
        assert sum(outcomes) == 5000, outcomes
        assert min(outcomes[0], outcomes[1] + outcomes[2]) > 500
        assert (queue.items, queue.rows) == (0, 0)


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [
        simulate(_adaptive(MEDIUM), MEDIUM, seconds=5, arrivals=poisson(900), seed=seed).latencies_s
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_the_picture_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.serving.batching_report.SECONDS", {MEDIUM.name: 1.0})
    svg = picture()
    assert svg.count("<polyline") == 8
    assert "nan" not in svg
