from __future__ import annotations

import pytest

from services.torch_worker.execution.threads import Requests, candidates, choose, requests_per_s

ROW = Requests(rows=1, bytes=1104)
IMAGE = Requests(rows=1, bytes=1_204_224)


def test_candidates() -> None:
    assert [candidates(n, 1) for n in (1, 2, 3, 4, 6, 16)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 3, 4],
        [1, 2, 4, 5, 6],
        [1, 2, 4, 8, 15, 16],
    ]
    assert candidates(16, 4) == [1, 2, 3, 4]
    assert candidates(2, 8) == [1]


def test_a_small_model_leaves_a_core_to_the_transport() -> None:
    # A few hundred microseconds a call, faster on both cores: but answering its requests takes 5 ms.
    assert choose({1: {1: 150e-6, 64: 600e-6}, 2: {1: 140e-6, 64: 400e-6}}, 2, 1, ROW) == 1


def test_a_large_model_takes_all_cores() -> None:
    assert choose({1: {1: 0.077, 4: 0.310}, 2: {1: 0.033, 4: 0.125}}, 2, 1, IMAGE) == 2


def test_requests_of_many_rows_leave_more_cores_to_the_model() -> None:
    times = {1: {1: 0.0007, 8: 0.0056}, 2: {1: 0.0004, 8: 0.0030}}
    assert choose(times, 2, 1, Requests(rows=64, bytes=64 * 512)) == 2


def test_threads_that_bring_nothing_are_not_taken() -> None:
    flat = {1: {1: 0.010, 8: 0.080}, 2: {1: 0.0099, 8: 0.079}, 4: {1: 0.010, 8: 0.080}}
    assert choose(flat, 16, 1, ROW) == 1


def test_among_equal_rates_the_lone_request_decides() -> None:
    # The transport limits both to the same rate; alone, two threads answer sooner.
    assert choose({1: {1: 0.0010, 64: 0.004}, 2: {1: 0.0005, 64: 0.003}}, 4, 1, ROW) == 2


def test_more_threads_than_help_are_slower_and_lose() -> None:
    assert choose({1: {1: 1e-3}, 4: {1: 4e-4}, 8: {1: 3e-4}, 16: {1: 9e-4}}, 16, 1, ROW) == 8


def test_instances_share_the_cores() -> None:
    # Four instances of four threads on 16 cores leave nothing to the transport; three threads each do.
    alone = requests_per_s(0.004, 3, 64, 16, 4, ROW)
    assert alone == pytest.approx(4 * 64 / (4 * 64 * ROW.transport_s))
    assert requests_per_s(0.004, 4, 64, 16, 4, ROW) < alone
    assert requests_per_s(0.1, 4, 1, 16, 4, ROW) == pytest.approx(4 / (0.1 + 4 * ROW.transport_s))


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="measured"):
        choose({}, 2, 1, ROW)
