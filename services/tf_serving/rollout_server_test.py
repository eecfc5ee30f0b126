"""Twenty versions one after another under load, and a corrupt one."""

from __future__ import annotations

import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.testing import Server, save_constant
from services.tf_serving.testing_client import Client

VERSIONS = 20
CALLERS = 4
BALLAST_BYTES = 8 << 20
WAIT_S = 60.0


class Callers:
    """Threads that ask for the latest version without end."""

    def __init__(self, address: str) -> None:
        self.answers: list[list[tuple[int, float]]] = [[] for _ in range(CALLERS)]
        self.failures: list[BaseException] = []
        self._address = address
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(answers,), daemon=True) for answers in self.answers
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def _ask(self, answers: list[tuple[int, float]]) -> None:
        with grpc.insecure_channel(self._address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            client = Client(channel)
            while not self._stop.is_set():
                try:
                    answers.append(client.answer("m"))
                except Exception as error:
                    self.failures.append(error)
                time.sleep(0.002)  # else the callers leave the server no core


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def resident_bytes(server: Server) -> float:
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=20) as response:
        found = re.search(r"^process_resident_memory_bytes (\S+)$", response.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found.group(1))


def test_a_rollout_of_twenty_versions_fails_no_call_and_a_corrupt_one_is_refused(tmp_path: Path) -> None:
    tensorflow()
    base, ready = tmp_path / "m", tmp_path / "ready"
    base.mkdir()
    ready.mkdir()
    save_constant(base / "1", 1, ballast_bytes=BALLAST_BYTES)
    for version in range(2, VERSIONS + 2):
        save_constant(ready / str(version), version, ballast_bytes=BALLAST_BYTES)
    arguments = ("--model_name=m", f"--model_base_path={base}", "--file_system_poll_wait_seconds=0.1")
    with Server(*arguments, "--drain-grace-s=0") as server, grpc.insecure_channel(server.address) as channel:
        client = Client(channel)
        callers = Callers(server.address)
        memory = 0.0
        for version in range(2, VERSIONS + 2):
            (ready / str(version)).rename(base / str(version))
            until(lambda: client.states("m").get(version) == 30)  # noqa: B023 - called before it changes
            memory = memory or resident_bytes(server)  # one version more than serves
        last = VERSIONS + 1
        shutil.copytree(base / str(last), ready / "corrupt")
        for shard in (ready / "corrupt" / "variables").glob("*.data-*"):
            shard.write_bytes(shard.read_bytes()[:3])
        (ready / "corrupt").rename(base / str(last + 1))
        until(lambda: client.states("m").get(last + 1) == 50)
        asked = [len(answers) for answers in callers.answers]
        until(lambda: all(len(now) > before for now, before in zip(callers.answers, asked, strict=True)))
        callers.stop()

        assert callers.failures == []
        seen: set[int] = set()
        for answers in callers.answers:
            versions = [version for version, _ in answers]
            assert versions == sorted(versions)  # never back to an older one
            assert all(value == version for version, value in answers)
            seen.update(versions)
        assert seen == set(range(1, VERSIONS + 2))
        # Nothing but the last stays loaded, and the corrupt one says why it is not.
        until(lambda: [v for v, state in client.states("m").items() if state != 50] == [last])
        assert f"cannot load {base}/{last + 1}" in client.status("m")[last + 1][1]
        assert client.answer("m") == (last, float(last))
        assert resident_bytes(server) - memory < VERSIONS * BALLAST_BYTES / 2
