"""For tests: the worker as a process of its own, and channels to it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from libs.proto.messages import SeldonMessage
from libs.proto.services import ModelStub, SeldonStub

START_S = 60.0


class Running:
    """A worker process and a channel to it."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: Path) -> None:
        self.process = process
        self.address = address
        self.log = log
        self.channel = grpc.insecure_channel(address)
        self.model = ModelStub(self.channel)
        self.seldon = SeldonStub(self.channel)

    def predict(self, message: SeldonMessage, timeout: float | None = 20.0) -> Any:
        return self.model.Predict(message, timeout=timeout)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as response:
            return str(response.read().decode())


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "services.torch_worker", "serve", *args]


@contextmanager
def worker(folder: Path, *args: str) -> Iterator[Running]:
    log = folder.parent / f"{folder.name}.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command("--model-dir", str(folder), "--port", "0", "--drain-grace", "0.2", *args),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        lines: Future[str] = Future()
        stdout = process.stdout
        assert stdout is not None
        threading.Thread(target=lambda: lines.set_result(stdout.readline()), daemon=True).start()
        line = lines.result(START_S)
        assert line.startswith("READY "), log.read_text()
        running = Running(process, line.split()[1], log)
        yield running
        running.channel.close()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
