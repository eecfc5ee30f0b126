from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from dl_inference.errors import NotFound
from dl_inference.routes import NodeFile, OneAddress, Xds
from libs.balancing.policy import PolicyName


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def routes(path: Path, clock: Clock, policy: PolicyName = PolicyName.PEAK_EWMA) -> NodeFile:
    return NodeFile(path, policy, clock, random.Random(7))


def write(path: Path, text: str) -> None:
    """As an editor that keeps the file's time could: the change must be seen by size or inode as well."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def test_a_retry_goes_elsewhere_while_there_is_an_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "nodes.txt"
    write(path, "1=200,a:1,10.0.0.2:2,10.0.0.3:3\n2=10.0.0.9:9\n")
    found = routes(path, Clock())
    everywhere = {"dns:///a:1", "10.0.0.2:2", "10.0.0.3:3"}
    for target in everywhere:
        for _ in range(50):
            route = found.pick(1, "m-1", everywhere - {target})
            assert (route.target, route.direct, route.timeout_s) == (target, True, 0.2)
            route.done(True, 0.001)
    only = found.pick(2, "m-2", {"10.0.0.9:9"})
    assert (only.target, only.timeout_s) == ("10.0.0.9:9", 0.1)


@pytest.mark.parametrize("policy", PolicyName)
def test_a_failing_instance_gets_few_calls(tmp_path: Path, policy: PolicyName) -> None:
    path = tmp_path / "nodes.txt"
    write(path, "1=200,10.0.0.1:1,10.0.0.2:2\n")
    clock = Clock()
    found = routes(path, clock, policy)
    calls: Counter[str] = Counter()
    for _ in range(400):
        route = found.pick(1, "m-1", ())
        calls[route.target] += 1
        clock.now += 0.01
        route.done(route.target != "10.0.0.2:2", 0.01)
    assert calls["10.0.0.1:1"] > (150 if policy is PolicyName.ROUND_ROBIN else 300)


def test_the_file_is_followed_and_an_error_in_it_changes_nothing(tmp_path: Path) -> None:
    path, clock = tmp_path / "nodes.txt", Clock()
    write(path, "1=200,10.0.0.1:1\n")
    found = routes(path, clock)
    write(path, "1=300,10.0.0.2:2\n2=100,10.0.0.3:3\n")
    assert found.pick(1, "", ()).target == "10.0.0.1:1"  # it is looked at once a second
    clock.now += 1.5
    after = found.pick(1, "", ())
    assert (after.target, after.timeout_s) == ("10.0.0.2:2", 0.3)
    assert found.pick(2, "", ()).target == "10.0.0.3:3"
    write(path, "1=300,nonsense\n")
    clock.now += 1.5
    assert found.pick(1, "", ()).target == "10.0.0.2:2"
    assert f"{path}:1: endpoint 1" in found.error
    path.unlink()
    clock.now += 1.5
    assert found.pick(1, "", ()).target == "10.0.0.2:2"
    assert "No such file" in found.error
    write(path, "1=300,10.0.0.4:4\n")
    clock.now += 1.5
    assert found.pick(1, "", ()).target == "10.0.0.4:4"
    assert found.error == ""


def test_a_file_that_cannot_be_used_at_the_start_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nodes.txt"
    with pytest.raises(ValueError, match="No such file"):
        routes(path, Clock())
    write(path, "x\n1=\n")
    with pytest.raises(ValueError, match=r"nodes\.txt:1: .*\n.*nodes\.txt:2: "):
        routes(path, Clock())


def test_tasks_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "nodes.txt"
    write(path, "1=200,10.0.0.1:1\n")
    found = routes(path, Clock())
    with pytest.raises(NotFound, match="task 2 is not in"):
        found.pick(2, "m-2", ())
    for nowhere in (found, Xds()):
        with pytest.raises(NotFound, match="the name 'm' says no task"):
            nowhere.pick(None, "m", ())


def test_one_address_and_xds() -> None:
    assert OneAddress("g:1").pick(None, "m", {"g:1"}).target == "g:1"
    assert Xds().pick(69, "textcnn-69", ()).target == "xds:///task-69"
