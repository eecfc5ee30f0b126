"""The worker's process, asked all the time while its versions change."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from libs.proto.messages import SeldonMessage
from services.torch_worker.testing import make_folder
from services.torch_worker.testing_process import Running, worker

# A model that answers its version, with weights large enough to be seen in the process's memory.
VERSIONED = """
import torch
from torch import nn

class Versioned(nn.Module):
    def __init__(self, version):
        super().__init__()
        self.version = nn.Parameter(torch.tensor(float(version)))
        self.ballast = nn.Parameter(torch.ones(BALLAST))

    def forward(self, x):
        return x[:, :1] * 1000 + self.version
"""
BALLAST_MIB = 16
HOOKS = """
def preprocess(x, **kwargs):
    import torch
    return torch.from_numpy(x)

def postprocess(x, **kwargs):
    return x.numpy()
"""
DEADLINE_S = 30.0


def put(folder: Path, version: int, *, ballast_mib: int = 0, processor: str | None = None) -> None:
    """A version that appears whole, by a rename."""
    source = VERSIONED.replace("BALLAST", str(max(1, ballast_mib << 18)))
    staged = make_folder(
        folder.parent / f"staged-{version}", source, f"Versioned({version})", processor=processor
    )
    staged.rename(folder / str(version))


def put_broken(folder: Path, version: int) -> None:
    staged = folder.parent / f"staged-{version}"
    staged.mkdir()
    (staged / "model.pth").write_bytes(b"no model")
    staged.rename(folder / str(version))


def question(value: float = 0.0) -> SeldonMessage:
    message = SeldonMessage()
    message.data.tensor.shape.extend([1, 1])
    message.data.tensor.values.append(value)
    return message


def answer(running: Running, value: float = 0.0) -> float:
    return float(running.predict(question(value)).data.tensor.values[0])


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def metric(running: Running, name: str) -> float:
    lines = running.get("/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def counts(running: Running, name: str, value: float) -> bool:
    return metric(running, name) == value


def answers(running: Running, version: int) -> bool:
    return answer(running) == version


def health(running: Running, service: str) -> int | str:
    check = running.channel.unary_unary("/grpc.health.v1.Health/Check")
    name = service.encode()
    try:
        return int(check(bytes((0x0A, len(name))) + name, timeout=10)[1])
    except grpc.RpcError as error:
        return str(error.code().name)


def memory_mib(pid: int) -> float:
    """Resident memory of a process's whole tree: the model lives in the server's child."""
    total = 0
    pids = [pid]
    while pids:
        one = pids.pop()
        for task in Path(f"/proc/{one}/task").iterdir():
            pids += map(int, (task / "children").read_text().split())
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total / 1024


class Callers:
    """Threads that ask without a pause and note what they were answered, and between which moments."""

    def __init__(self, running: Running, threads: int) -> None:
        self._running = running
        self._stop = threading.Event()
        self.answers: list[list[tuple[float, float, int]]] = [[] for _ in range(threads)]
        self.wrong: list[Any] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(n, noted), daemon=True)
            for n, noted in enumerate(self.answers)
        ]

    def _ask(self, caller: int, noted: list[tuple[float, float, int]]) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            value = caller * 100 + count % 100
            start = time.monotonic()
            try:
                version = answer(self._running, value) - 1000 * value
                noted.append((start, time.monotonic(), round(version)))
            except Exception as error:
                self.wrong.append(error)

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)


@pytest.mark.parametrize("processor", [None, HOOKS], ids=["bare", "hooks"])
def test_twenty_swaps_under_load(tmp_path: Path, processor: str | None) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    put(folder, 1, ballast_mib=BALLAST_MIB, processor=processor)
    steps = 23
    broken = {6, 12, 18}
    # When a version was put there, the earliest that it can answer; and when it was seen to, by when all do.
    put_at: dict[int, float] = {1: 0.0}
    seen_at: dict[int, float] = {}
    with worker(folder, "--watch-interval", "0.1") as running:
        with Callers(running, 6) as callers:
            loaded, failed = 1, 0
            for version in range(2, steps + 2):
                if version in broken:
                    put_broken(folder, version)
                    failed += 1
                    wait_for(partial(counts, running, "serving_model_load_failures_total", failed))
                    continue
                put_at[version] = time.monotonic()
                put(folder, version, ballast_mib=BALLAST_MIB, processor=processor)
                loaded += 1
                wait_for(partial(answers, running, version))
                seen_at[version] = time.monotonic()
                if loaded == 4:
                    wait_for(lambda: metric(running, "serving_model_unloads_total") == 3)
                    early = memory_mib(running.process.pid)
            wait_for(lambda: metric(running, "serving_model_unloads_total") == loaded - 1)
            late = memory_mib(running.process.pid)
        assert callers.wrong == []
        assert metric(running, "serving_model_swaps_total") == loaded - 1 == 20
        for noted in callers.answers:
            assert len(noted) > 100
            versions = [version for _, _, version in noted]
            assert versions == sorted(versions), "a caller never goes back to an older version"
            for start, end, version in noted:
                assert put_at[version] <= end, "a version answered before it was there"
                newest = max((v for v, at in seen_at.items() if at < start), default=1)
                assert version >= newest, "an old version answered a request that came after the swap"
        # 17 more versions of so many MiB came and went; a leak of each would show.
        assert late < early + 17 * BALLAST_MIB / 2, f"{early:.0f} MiB, then {late:.0f} MiB"
        labels = [line for line in running.get("/metrics").splitlines() if 'state="AVAILABLE"' in line]
        assert len(labels) == 1
    text = running.log.read_text()
    assert "is no model file" in text and "unloaded after" in text and "Traceback" not in text


def test_versions_by_number_and_their_readiness(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for version in (1, 3):
        put(folder, version)
    put_broken(folder, 2)
    with worker(folder, "--watch-interval", "0.1", "--versions", "all") as running:
        assert answer(running) == 3
        assert [health(running, name) for name in ("", "m", "seldon.protos.Model", "m/1", "m/2", "m/3")] == [
            1,
            1,
            1,
            1,
            2,
            1,
        ]
        body = '{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0]}]}'
        for version in (1, 3):
            url = f"http://{running.address}/v2/models/m/versions/{version}/infer"
            with urllib.request.urlopen(url, data=body.encode(), timeout=10) as response:
                assert f'"data":[{version}.0]' in response.read().decode().replace(" ", "")
        put(folder, 4)
        wait_for(lambda: health(running, "m/4") == 1)
        assert answer(running) == 4
        (folder / "1").rename(tmp_path / "gone")
        wait_for(lambda: health(running, "m/1") == "NOT_FOUND")
        assert health(running, "m/3") == 1


def test_a_folder_that_is_a_model_reloads_and_outlives_its_deletion(tmp_path: Path) -> None:
    for version in (1, 2):
        make_folder(tmp_path / f"v{version}", VERSIONED.replace("BALLAST", "1"), f"Versioned({version})")
    link = tmp_path / "m"
    link.symlink_to("v1")
    with worker(link, "--watch-interval", "0.1") as running:
        assert answer(running) == 1
        (tmp_path / "next").symlink_to("v2")
        (tmp_path / "next").rename(link)
        wait_for(lambda: answer(running) == 2)
        link.unlink()
        wait_for(lambda: "holds no version any more" in running.log.read_text())
        assert answer(running) == 2 and health(running, "m/1") == 1
