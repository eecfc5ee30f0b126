from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from libs.balancing.endpoint import Endpoint
from services.gateway.metrics_counters import (
    BOUNDS_US,
    NOTHING,
    REASONS,
    TASK_SLOTS,
    CounterFile,
    FailedCall,
    InstanceCounts,
)
from services.gateway.testing_counters import Writer

A, B = Endpoint("10.0.0.1", 8500), Endpoint("fd00::1", 8501)


@pytest.fixture()
def file(tmp_path: Path) -> CounterFile:
    return CounterFile.create(tmp_path / "calls", threads=1)


def test_the_bounds_are_ten_a_decade_from_a_tenth_of_a_millisecond_to_ten_seconds() -> None:
    assert len(BOUNDS_US) == 50
    assert (BOUNDS_US[0], BOUNDS_US[20], BOUNDS_US[-1]) == (100, 10_000, 10_000_000)
    assert all(low < high <= 1.6 * low for low, high in pairwise(BOUNDS_US))


def test_a_new_file_has_no_counts(file: CounterFile) -> None:
    assert file.tasks() == {}
    assert file.instances() == {}
    assert file.failures() == []
    assert file.lost == 0


def test_threads_are_added_up(file: CounterFile) -> None:
    for thread in (0, 1):
        writer = Writer(file.path, thread)
        writer.call("69", duration_us=300, received=10, sent=20)
        writer.call("69", duration_us=20_000_000, code=4, reason="timeout", retries=1)
    counts = file.tasks()["69"]
    assert (counts.calls, counts.received_bytes, counts.sent_bytes, counts.retries) == (4, 20, 40, 2)
    assert counts.duration_s == pytest.approx(40.0006)
    assert (counts.codes[0], counts.codes[4], sum(counts.codes)) == (2, 2, 4)
    assert counts.reasons[REASONS.index("timeout")] == 2
    assert counts.durations[BOUNDS_US.index(315)] == 2  # the bounds are upper ones
    assert counts.durations[-1] == 2  # longer than the last


def test_what_came_since_is_a_difference_and_all_of_it_after_a_reset(file: CounterFile) -> None:
    writer = Writer(file.path, 0)
    writer.call("69", duration_us=1000)
    before = file.tasks()["69"]
    assert file.tasks()["69"] is before  # an idle task costs nothing
    writer.call("69", duration_us=1000)
    after = file.tasks()["69"]
    assert after.since(before).calls == 1
    assert after.since(after) is NOTHING
    assert after.since(None) is after
    assert before.since(after) is before


def test_instances_are_by_pool_and_address(file: CounterFile) -> None:
    writer = Writer(file.path, 1)
    for pool, endpoint in (("task-69", A), ("a pool", B), ("task-69", A)):
        writer.instance(pool, endpoint, latency_us=250)
    assert file.instances() == {
        ("task-69", A): InstanceCounts(2, 500, 0),
        ("a pool", B): InstanceCounts(1, 250, 0),
    }


def test_failed_calls_come_newest_first_and_no_more_than_asked_for(file: CounterFile) -> None:
    first, second = Writer(file.path, 0), Writer(file.path, 1)
    for n in range(200):  # more than are kept
        (first, second)[n % 2].failure(began=1000.0 + n, message=f"number {n}%21")
    found = file.failures(150)
    assert [call.message for call in found[:2]] == ["number 199!", "number 198!"]
    assert len(found) == 150
    assert found[0] == FailedCall(
        1199.0,
        0.25,
        14,
        "no_instance",
        "69",
        "task-69",
        "10.0.0.1:8500",
        "10.9.9.9:1234",
        "why",
        "number 199!",
    )


def test_a_file_that_fits_is_used_again_and_another_replaced(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    first = CounterFile.create(path, threads=1)
    Writer(path, 0).call("69", duration_us=1)
    first.close()
    again = CounterFile.create(path, threads=1)
    assert again.tasks()["69"].calls == 1
    larger = CounterFile.create(path, threads=2)
    assert larger.tasks() == {}
    assert again.tasks()["69"].calls == 1  # whoever has the old one mapped keeps it


def test_room_is_given_back_only_when_half_of_it_is_used(file: CounterFile) -> None:
    writer = Writer(file.path, 0)
    for n in range(TASK_SLOTS // 2 + 1):
        writer.call(str(n), duration_us=1)
        if n < 3:
            file.tasks()
            file.forget(lambda task: False, lambda pool, endpoint: False)
    assert len(file.tasks()) == TASK_SLOTS // 2 + 1
    file.forget(lambda task: task == "7", lambda pool, endpoint: False)
    assert set(file.tasks()) == {"7"}
    writer.forgotten()
    writer.call("8", duration_us=1)
    assert file.tasks()["8"].calls == 1
