from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from libs.serving.errors import FailedPrecondition, InvalidArgument, ServingError
from libs.serving.versions import Policy, State
from services.tf_serving.execution.engine import Engine
from services.tf_serving.model.versions import ModelError
from services.tf_serving.serving.grace import Grace
from services.tf_serving.serving.model_configs import ModelConfig
from services.tf_serving.serving.models import Models
from services.tf_serving.serving.servables import Servables
from services.tf_serving.serving.watcher import Watching

WAIT_S = 30.0
ALL = Policy()


class FakeEngine:
    """Stands for a loaded version."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.number = name, number
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Loads:
    """Loads that fail for versions whose graph says so, and wait while told to."""

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []
        self.attempts: list[tuple[str, int]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, name: str, number: int, path: Path) -> Engine:
        self.attempts.append((name, number))
        assert self.go_on.wait(WAIT_S)
        if (path / "saved_model.pb").read_text() == "broken":
            raise ModelError(f"cannot load {path}: broken")
        if (path / "saved_model.pb").read_text() == "odd":
            raise KeyError("odd")
        self.engines.append(FakeEngine(name, number))
        return cast(Engine, self.engines[-1])

    def open(self) -> list[tuple[str, int]]:
        return sorted((engine.name, engine.number) for engine in self.engines if not engine.closed)


class Bench:
    """Models over fakes."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.loads = Loads()
        self.servables = Servables()
        self.grace = Grace()
        watching = options.pop("watching", Watching(0.02, max_retries=0))
        self.models = Models(self.loads, self.servables, self.grace, watching, **options)

    def put(self, name: str, *numbers: int, text: str = "fine") -> None:
        for number in numbers:
            version = self.folder / name / str(number)
            version.mkdir(parents=True)
            (version / "saved_model.pb").write_text(text)

    def config(self, name: str, policy: Policy = ALL, folder: str = "", **labels: int) -> ModelConfig:
        return ModelConfig(name, self.folder / (folder or name), policy, labels)

    def states(self, name: str) -> dict[int, State]:
        return {state.number: state.state for state in self.models.states(name)}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.models.stop()


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


async def test_the_start_loads_what_policies_choose(bench: Bench) -> None:
    bench.put("a", 1, 2, 3)
    bench.put("b", 1, 2, 3)
    await bench.models.start(
        [bench.config("a", Policy(latest=2)), bench.config("b", Policy(numbers=frozenset({1})))]
    )
    assert bench.loads.open() == [("a", 2), ("a", 3), ("b", 1)]
    assert bench.models.availability() == {"a": True, "b": True}
    assert bench.states("a") == {2: State.AVAILABLE, 3: State.AVAILABLE}  # version 1 was never to be loaded


async def test_at_the_start_every_model_without_a_version_is_named(bench: Bench) -> None:
    bench.put("fine", 1)
    bench.put("broken", 1, 2, text="broken")
    bench.put("odd", 1, text="odd")
    bench.put("other", 1)
    with pytest.raises(ModelError) as caught:
        await bench.models.start(
            [
                *(bench.config(name) for name in ("fine", "broken", "odd", "nowhere")),
                bench.config("other", Policy(numbers=frozenset({7}))),
            ]
        )
    base = bench.folder
    assert str(caught.value).splitlines() == [
        f"model broken: version 1: cannot load {base}/broken/1: broken; version 2: cannot load {base}/broken/2: broken",
        f"model odd: {base}/odd/1: KeyError: 'odd'",
        f"model nowhere: could not find the model base path {base}/nowhere",
        f"model other: {base}/other has version 1, but none that the policy chooses",
    ]


async def test_a_broken_newest_version_leaves_the_next_lower_one_to_serve(bench: Bench) -> None:
    bench.put("a", 1)
    bench.put("a", 2, text="broken")
    await bench.models.start([bench.config("a", Policy(latest=1))])
    assert bench.states("a") == {1: State.AVAILABLE, 2: State.END}
    assert bench.loads.attempts == [("a", 2), ("a", 1)]


async def test_what_a_swap_leaves_is_freed_when_its_calls_have_ended(bench: Bench) -> None:
    bench.put("a", 1)
    await bench.models.start([bench.config("a", Policy(latest=1))])
    epoch = bench.grace.epoch
    epoch.calls += 1
    bench.put("a", 2)
    await until(lambda: bench.servables.versions("a") == [2])
    await until(lambda: bench.states("a") == {1: State.UNLOADING, 2: State.AVAILABLE})
    assert bench.loads.open() == [("a", 1), ("a", 2)]
    epoch.calls -= 1
    await until(lambda: bench.states("a") == {1: State.END, 2: State.AVAILABLE})
    assert bench.loads.open() == [("a", 2)]


async def test_the_same_version_with_other_files_takes_its_own_place(bench: Bench) -> None:
    bench.put("a", 1)
    await bench.models.start([bench.config("a")])
    (bench.folder / "a" / "1" / "saved_model.pb").write_text("better")
    await until(lambda: [engine.closed for engine in bench.loads.engines] == [True, False])
    assert bench.servables.versions("a") == [1]
    assert next(iter(bench.servables)).engine is cast(Engine, bench.loads.engines[1])


async def test_a_reload_waits_for_what_is_new_and_unloads_what_is_gone(bench: Bench) -> None:
    for name in "abc":
        bench.put(name, 1, 2)
    await bench.models.start([bench.config("a"), bench.config("b")])
    await bench.models.reload([bench.config("b", Policy(latest=1)), bench.config("c")])
    assert bench.servables.versions("a") == []
    assert bench.servables.versions("c") == [1, 2]
    await until(lambda: bench.loads.open() == [("b", 2), ("c", 1), ("c", 2)])
    await until(lambda: bench.states("a") == {1: State.END, 2: State.END})
    assert list(bench.models.availability()) == ["b", "c"]
    await bench.models.reload([bench.config("a", folder="b")])
    await until(lambda: bench.loads.open() == [("a", 1), ("a", 2)])


async def test_a_model_that_is_removed_while_it_loads_never_answers(bench: Bench) -> None:
    bench.put("a", 1)
    bench.put("b", 1)
    await bench.models.start([bench.config("a")])
    bench.loads.go_on.clear()
    adding = asyncio.create_task(bench.models.reload([bench.config("a"), bench.config("b")]))
    await until(lambda: bench.states("b") == {1: State.LOADING})
    await bench.models.reload([bench.config("a")])
    bench.loads.go_on.set()
    await adding
    await until(lambda: bench.states("b") == {1: State.END})
    assert bench.servables.versions("b") == []
    assert bench.loads.open() == [("a", 1)]


async def test_a_version_that_loads_when_its_model_is_removed_is_unloaded_too(bench: Bench) -> None:
    bench.put("a", 1)
    await bench.models.start([bench.config("a")])
    bench.loads.go_on.clear()
    bench.put("a", 2)
    await until(lambda: bench.states("a").get(2) is State.LOADING)
    await bench.models.reload([])
    assert bench.servables.versions("a") == []
    await until(lambda: bench.states("a") == {1: State.END, 2: State.LOADING})
    bench.loads.go_on.set()
    await until(lambda: bench.states("a") == {1: State.END, 2: State.END})
    assert bench.servables.versions("a") == []
    assert bench.loads.open() == []


async def test_a_caller_who_leaves_does_not_stop_a_reload(bench: Bench) -> None:
    bench.put("a", 1)
    await bench.models.start([])
    bench.loads.go_on.clear()
    reload = asyncio.create_task(bench.models.reload([bench.config("a")]))
    await until(lambda: bench.states("a") == {1: State.LOADING})
    reload.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reload
    bench.loads.go_on.set()
    await until(lambda: bench.servables.versions("a") == [1])


async def test_a_new_model_that_cannot_be_loaded_is_told_and_the_rest_is_served(bench: Bench) -> None:
    bench.put("a", 1)
    bench.put("bad", 1, text="broken")
    await bench.models.start([])
    with pytest.raises(
        ServingError, match=r"Some models did not become available: \{\{name: bad: cannot load"
    ):
        await bench.models.reload([bench.config("bad"), bench.config("a")])
    assert bench.models.availability() == {"bad": False, "a": True}


async def test_labels_go_to_available_versions_only(bench: Bench) -> None:
    bench.put("a", 1, 2)
    only = Policy(numbers=frozenset({1}))
    await bench.models.start([bench.config("a", only, stable=1)])
    with pytest.raises(
        FailedPrecondition, match="assign label to version 2 of model a, which is not currently"
    ):
        await bench.models.reload([bench.config("a", ALL, stable=1, canary=2)])
    assert bench.servables.labels == {"a": {"stable": 1}}
    assert bench.servables.versions("a") == [1]
    await bench.models.reload([bench.config("a", ALL, stable=1)])
    await bench.models.reload([bench.config("a", ALL, stable=2)])
    assert bench.servables.labels == {"a": {"stable": 2}}


async def test_a_label_for_nothing_stops_the_start_unless_it_is_allowed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.put("a", 1)
    with pytest.raises(
        ModelError, match="version 2 .*--allow-version-labels-for-unavailable-models lets it be"
    ):
        await bench.models.start([bench.config("a", stable=2)])
    await bench.models.stop()
    bench = Bench(tmp_path, new_labels_anywhere=True)
    await bench.models.start([bench.config("a", stable=2)])
    assert bench.servables.labels == {"a": {"stable": 2}}
    with pytest.raises(
        FailedPrecondition, match="version 3"
    ):  # a label in use does not go to what is not there
        await bench.models.reload([bench.config("a", stable=3)])
    await bench.models.stop()


async def test_a_folder_that_is_looked_at_once_is_looked_at_again_by_a_reload(tmp_path: Path) -> None:
    bench = Bench(tmp_path, watching=Watching(0.0))
    bench.put("a", 1)
    await bench.models.start([bench.config("a", Policy(latest=1))])
    bench.put("a", 2)
    await asyncio.sleep(0.1)
    assert bench.servables.versions("a") == [1]
    await bench.models.reload([bench.config("a", Policy(latest=2))])
    assert bench.servables.versions("a") == [1, 2]
    await bench.models.stop()


@pytest.mark.parametrize("interval_s", [0.02, 0.0])
async def test_a_load_that_failed_is_tried_again_so_often(tmp_path: Path, interval_s: float) -> None:
    bench = Bench(tmp_path, watching=Watching(interval_s, max_retries=1, retry_s=0.05))
    bench.put("a", 1)
    bench.put("a", 2, text="broken")
    await bench.models.start([bench.config("a", Policy(latest=1))])
    await until(lambda: bench.loads.attempts.count(("a", 2)) == 2)
    await asyncio.sleep(0.3)
    assert bench.loads.attempts.count(("a", 2)) == 2
    await bench.models.stop()


async def test_models_load_at_a_time_on_as_many_threads_as_are_given(tmp_path: Path) -> None:
    bench = Bench(tmp_path, load_threads=2)
    bench.put("a", 1)
    bench.put("b", 1)
    bench.loads.go_on.clear()
    start = asyncio.create_task(bench.models.start([bench.config("a"), bench.config("b")]))
    await until(lambda: sorted(bench.loads.attempts) == [("a", 1), ("b", 1)])
    bench.loads.go_on.set()
    await start
    await bench.models.stop()


async def test_a_message_that_cannot_be_is_an_invalid_argument(bench: Bench) -> None:
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    await bench.models.start([])
    config = ModelServerConfig()
    config.model_config_list.config.add(name="a", base_path="relative", model_platform="tensorflow")
    with pytest.raises(InvalidArgument) as caught:
        await bench.models.reload_message(config)
    assert str(caught.value).startswith("Expected model a to have an absolute path or URI")
    bench.put("a", 1)
    config.model_config_list.config[0].base_path = str(bench.folder / "a")
    await bench.models.reload_message(config)
    assert bench.servables.versions("a") == [1]
