"""A real Envoy fed with tables made in the test: the listener without configuration files and without a gateway."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc

from libs.balancing.endpoint import Endpoint
from services.gateway.bootstrap import BootstrapOptions, bootstrap
from services.gateway.discovery import Discovery
from services.gateway.listener import ListenerOptions, listener
from services.gateway.names import LISTENER
from services.gateway.observe import collector_cluster
from services.gateway.own_services import OwnServices
from services.gateway.snapshot import build, resolve
from services.gateway.supervisor_ports import reserve_port
from services.gateway.table import Edge, Pool, Table, Task
from services.gateway.testing_envoy import EnvoyProcess
from services.gateway.tls import secrets

_T = TypeVar("_T")
_DEADLINE_S = 30.0


@dataclass(slots=True)
class EdgeEnvoy:
    """Envoy on loopback with the listener of `table`; `update` replaces the table under it."""

    table: Table
    files: Mapping[Path, bytes] = field(default_factory=dict)
    port: int = 0
    max_message_bytes: int = 10 << 20
    _discovery: Discovery = field(default_factory=Discovery)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="dl-edge-")
    )
    _held: socket.socket | None = None
    _server: Any = None
    _envoy: EnvoyProcess | None = None
    _thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._held = reserve_port("127.0.0.1", 0)
        self.port = self._held.getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._run(self._start())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            if self._thread is not None:
                self._thread.join(5)
            if self._held is not None:
                self._held.close()
            self._folder.cleanup()

    def update(self, table: Table, files: Mapping[Path, bytes] | None = None) -> None:
        """Sends another table and waits until Envoy has taken it. Raises AssertionError with what Envoy refused."""
        self.table = table
        if files is not None:
            self.files = files
        self._run(self._publish())

    def channel(
        self, credentials: grpc.ChannelCredentials | None = None, *options: tuple[str, Any]
    ) -> grpc.Channel:
        given = {"grpc.enable_retries": 0, "grpc.max_receive_message_length": -1, **dict(options)}
        settings = list(given.items())
        if credentials is None:
            return grpc.insecure_channel(self.address, options=settings)
        return grpc.secure_channel(f"localhost:{self.port}", credentials, options=settings)

    def admin(self, target: str) -> str:
        """What Envoy's admin interface answers."""

        async def ask() -> str:
            assert self._envoy is not None
            return (await self._envoy.admin.call(target)).body.decode()

        return self._run(ask())

    @property
    def pid(self) -> int:
        assert self._envoy is not None
        return self._envoy.pid

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_DEADLINE_S)

    async def _start(self) -> None:
        folder = Path(self._folder.name)
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self._discovery.handler(),))
        OwnServices(self._status_of).register(self._server)
        self._server.add_insecure_port(f"unix:{folder / 'control.sock'}")
        await self._server.start()
        self._send()
        admin = folder / "envoy.sock"
        self._envoy = await EnvoyProcess.start(
            bootstrap(BootstrapOptions(control=str(folder / "control.sock"), admin_socket=str(admin))),
            folder,
            str(admin),
            concurrency=1,
            log_level="warning",
        )
        await self._settled()
        async with asyncio.timeout(_DEADLINE_S / 2):
            while not (await self._envoy.admin.is_live() and await self._envoy.admin.has_listener()):
                await asyncio.sleep(0.02)

    async def _status_of(self, service: str) -> bool | None:
        return True if service == "" else None

    async def _publish(self) -> None:
        self._send()
        await self._settled()

    def _send(self) -> None:
        options = ListenerOptions("127.0.0.1", self.port, self.max_message_bytes)
        tracing = self.table.edge.tracing
        self._discovery.update(
            build(
                self.table,
                resolve(self.table, {}),
                {},
                listeners={LISTENER: listener(options, self.table, self.files)},
                secrets=secrets(self.table.edge, self.files, self.table.pools.values()),
                collector=(
                    None if tracing is None else collector_cluster(self.table.edge, [tracing.collector.host])
                ),
            )
        )

    async def _settled(self) -> None:
        async with asyncio.timeout(_DEADLINE_S / 2):
            while not self._discovery.settled:
                assert not self._discovery.last_error, self._discovery.last_error
                await asyncio.sleep(0.01)

    async def _stop(self) -> None:
        if self._envoy is not None:
            await self._envoy.stop()
        if self._server is not None:
            await self._server.stop(None)


def pool_of(task_id: int, *addresses: str) -> Pool:
    members = {Endpoint(host, int(port)): 100 for host, _, port in (a.rpartition(":") for a in addresses)}
    return Pool(f"task-{task_id}", members)


def table_of(address: str, *tasks: Task, edge: Edge | None = None) -> Table:
    """Tasks whose pools all have one instance. A task's pool is named after it."""
    return Table(
        {task.task_id: task for task in tasks},
        {task.pool: pool_of(task.task_id, address) for task in tasks},
        edge or Edge(),
    )


def task_of(task_id: int, **fields: Any) -> Task:
    return Task(task_id, fields.pop("timeout_ms", 5000), f"task-{task_id}", **fields)
