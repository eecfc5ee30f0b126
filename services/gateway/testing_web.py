"""What the tests of browsers' and curl's protocols share: an instance that says what it is told, and curl."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import grpc
import pytest

from services.gateway.table import Edge
from services.gateway.testing import Backend
from services.gateway.testing_edge import EdgeEnvoy, table_of, task_of

ORIGIN = "https://models.example"
MAX_MESSAGE = 4 << 20


class Instance(Backend):
    """Answers what it is told to, and echoes where it is told nothing."""

    reply: bytes | None = None

    def answer(self, method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        echoed = super().answer(method, body, context)
        return echoed if self.reply is None else self.reply


Site = tuple[EdgeEnvoy, Instance]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[EdgeEnvoy, Instance]]:
    with Instance() as instance:
        table = table_of(instance.address, task_of(69, timeout_ms=2000), edge=Edge(cors_origins=(ORIGIN,)))
        with EdgeEnvoy(table, max_message_bytes=MAX_MESSAGE) as envoy:
            yield envoy, instance


@pytest.fixture
def site(running: tuple[EdgeEnvoy, Instance]) -> Iterator[tuple[EdgeEnvoy, Instance]]:
    yield running
    running[1].reply, running[1].status, running[1].delay_s = None, grpc.StatusCode.OK, 0.0


def curl(envoy: EdgeEnvoy, path: str, *arguments: str) -> tuple[int, dict[str, str], bytes]:
    """curl's status, headers and body."""
    ran = subprocess.run(
        [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--include",
            *arguments,
            f"http://{envoy.address}{path}",
        ],
        capture_output=True,
        check=True,
        timeout=30,
    )
    head, _, body = ran.stdout.partition(b"\r\n\r\n")
    if b" 100 " in head.splitlines()[0]:
        head, _, body = body.partition(b"\r\n\r\n")
    lines = head.decode().splitlines()
    return (
        int(lines[0].split()[1]),
        dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line),
        body,
    )
