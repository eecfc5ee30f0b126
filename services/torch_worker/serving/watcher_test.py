from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from libs.serving.call import Call, never_cancelled
from libs.serving.errors import NotFound, Unavailable
from libs.serving.headers import Metadata
from libs.serving.metrics import Metrics
from libs.serving.versions import State, parse_policy
from services.torch_worker.config import ConfigError, WorkerConfig
from services.torch_worker.serving import watcher as watcher_module
from services.torch_worker.serving.assembly import Assembler
from services.torch_worker.serving.repository import Repository
from services.torch_worker.serving.servable import Request, Servable
from services.torch_worker.serving.watcher import Watcher
from services.torch_worker.testing import DOUBLER, kept_process_state, make_folder

HOOKS = """
def preprocess(x, **kwargs):
    import torch
    return torch.from_numpy(x).float()
def postprocess(x, **kwargs):
    return x.numpy()
"""


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    with kept_process_state():
        yield


def watcher(folder: Path, policy: str = "latest", interval_s: float = 0.05) -> tuple[Watcher, Repository]:
    repository = Repository("m")
    load = Assembler(WorkerConfig(str(folder)), Metrics(process=False)).load
    return Watcher(folder, parse_policy(policy), repository, load, interval_s=interval_s), repository


async def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


async def ask(servable: Servable) -> bytes:
    call = Call("/test", Metadata([]), None, never_cancelled)
    request = Request(np.ones((1, 3), np.float32), {"tags": {}}, lambda result, names: result.tobytes())
    return await servable.predict(call, request)


def put(folder: Path, version: int, processor: str | None = None) -> None:
    staged = make_folder(folder.parent / f"staged-{version}", DOUBLER, "Doubler()", processor=processor)
    folder.mkdir(exist_ok=True)
    staged.rename(folder / str(version))


@pytest.mark.parametrize("processor", [None, HOOKS], ids=["bare", "hooks"])
def test_an_unloaded_version_leaves_nothing_behind(tmp_path: Path, processor: str | None) -> None:
    folder = tmp_path / "m"
    put(folder, 1, processor)

    async def run() -> None:
        watching, repository = watcher(folder)
        await watching.start()
        await ask(repository.default())
        model = weakref.ref(repository.default()._engine._callers[0].model)
        threads = {t for t in threading.enumerate() if t.name.startswith(("model-", "hooks-", "after-"))}
        gc.collect()
        gc.freeze()  # as the server does when it is up: no collection frees what is there now
        try:
            put(folder, 2, processor)
            await wait_for(lambda: repository.versions() == [2] and not watching._leaving)
            assert model() is None
        finally:
            gc.unfreeze()
        assert threads and not any(thread.is_alive() for thread in threads)
        await ask(repository.default())
        await watching.stop()
        await repository.close(5)

    asyncio.run(run())


def test_requests_that_have_begun_end_on_the_version_they_began_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "_CLOSE_S", 0.05)  # shorter than the requests take
    folder = tmp_path / "m"
    put(folder, 1, HOOKS.replace("    import torch", "    import time, torch\n    time.sleep(1)"))

    async def run() -> None:
        watching, repository = watcher(folder)
        await watching.start()
        old = repository.default()
        asked = [asyncio.create_task(ask(old)) for _ in range(3)]
        await asyncio.sleep(0)
        put(folder, 2)
        await wait_for(lambda: repository.versions() == [2])
        assert not any(task.done() for task in asked)
        assert [s.state for s in repository.states()] == [State.UNLOADING, State.AVAILABLE]
        assert len(set(await asyncio.gather(*asked))) == 1
        await wait_for(lambda: not watching._leaving)
        await watching.stop()
        await repository.close(5)

    asyncio.run(run())


def test_versions_that_cannot_be_loaded_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    for version in (1, 2):
        put(folder, version)
    (folder / "2" / "processor.py").write_text("import sys\nsys.exit(3)\n")

    async def run() -> None:
        watching, repository = watcher(folder, "1,2,7", interval_s=0)
        await watching.start()
        assert repository.versions() == [1] and repository.find("m").version == "1"
        with pytest.raises(Unavailable, match="version 2 .* could not be loaded: .*SystemExit"):
            repository.find("m", "2")
        with pytest.raises(NotFound, match="no version '9' here; it has: 1"):
            repository.find("m", "9")
        with pytest.raises(NotFound, match="the model is 'm'"):
            repository.find("other")
        await watching.stop()
        await repository.close(5)

    asyncio.run(run())


def test_nothing_to_serve_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    put(folder, 1)
    (folder / "1" / "model.pth").write_bytes(b"no")

    async def run() -> None:
        watching, _ = watcher(folder)
        with pytest.raises(ConfigError, match="version 1: .*model.pth"):
            await watching.start()
        await watching.stop()

    asyncio.run(run())


def test_a_version_that_a_model_folder_does_not_have(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", DOUBLER, "Doubler()")

    async def run() -> None:
        watching, _ = watcher(folder, policy="3")
        with pytest.raises(ConfigError, match=r"^version 3: .*; .*/m is a model itself, which is version 1$"):
            await watching.start()
        await watching.stop()

    asyncio.run(run())
