"""The control plane: holds the table, feeds Envoy, follows the file, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from libs.balancing.controller import EndpointReport, WeightController
from services.gateway import configuration, status_certificates
from services.gateway.admin import AdminServer
from services.gateway.admin_pages import pages
from services.gateway.bootstrap import BootstrapOptions, bootstrap
from services.gateway.configuration import Sources
from services.gateway.configuration_errors import ConfigInvalid
from services.gateway.discovery import Discovery
from services.gateway.listener import DRAIN_S, LISTENER, STATS, ListenerOptions, listener
from services.gateway.listener_limits import DEFAULT_MAX_MESSAGE_BYTES
from services.gateway.load_reports import CallCounts, LoadReports
from services.gateway.metrics_counters import CounterFile
from services.gateway.observe import collector_cluster
from services.gateway.own_services import OwnServices
from services.gateway.process import EnvoyProcess, reserve_port
from services.gateway.resolver import Resolver
from services.gateway.snapshot import Group, build, load_assignment, resolve
from services.gateway.status import Overview
from services.gateway.status_monitor import Monitor
from services.gateway.status_monitor import Sources as Watched
from services.gateway.table import Table
from services.gateway.tls import secrets
from services.gateway.watch import changes

log = logging.getLogger(__name__)

_START_DEADLINE_S = 30.0
# An Envoy that keeps crashing is not helped by starting it again.
_CRASHES, _CRASH_WINDOW_S = 5, 60.0


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """The `serve` command's flags."""

    sources: Sources
    listen_host: str
    listen_port: int
    admin_host: str = "127.0.0.1"
    admin_port: int = 0
    concurrency: int = 1
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    drain_grace_s: float = 1.0
    drain_deadline_s: float = 15.0
    envoy_log_level: str = "warning"


class StartError(Exception):
    """The gateway cannot start, and the message says what to do."""


@dataclass(slots=True)
class ReloadState:
    """The node file's story, for the admin page."""

    version: int = 0
    loaded_at: float = 0.0  # seconds since the epoch
    rejected: int = 0
    errors: list[str] = field(default_factory=list)  # of the file as it is now; empty when it is in use


class Gateway:
    """One gateway: a control plane and its Envoy."""

    def __init__(self, options: GatewayOptions) -> None:
        self.options = options
        self.table = Table({})
        self.files: Mapping[Path, bytes] = {}  # that the table came from
        self.reload = ReloadState()
        self.discovery = Discovery()
        self.weights = WeightController()
        self.calls = CallCounts()
        self.counters: CounterFile | None = None
        self.started_at = time.time()
        self.resolver = Resolver(self._publish)
        self.envoy: EnvoyProcess | None = None
        self.restarts = 0
        self.draining = False
        self.listen_port = options.listen_port
        self.admin_port = options.admin_port
        self.live = False  # Envoy has taken traffic and runs
        self.pools: dict[str, list[Group]] = {}  # each pool's instances, by order of preference
        self._stop = asyncio.Event()
        self._announced = False  # READY was printed
        self._failed = False  # a task that must live as long as the gateway ended
        self._data: bytes | None = None
        self._apply_lock = asyncio.Lock()

    # --- table ---

    async def apply(self, data: bytes) -> bool:
        """Puts a node file's content to work, or rejects all of it and keeps the running table."""
        async with self._apply_lock:
            self._data = data
            try:
                main = self.options.sources.main
                loaded = configuration.load(
                    self.options.sources, lambda path: data if path == main else path.read_bytes()
                )
            except ConfigInvalid as invalid:
                self.reload.errors = [error.render() for error in invalid.errors]
                self.reload.rejected += 1
                for line in self.reload.errors:
                    log.error("%s", line)
                return False
            # Names first: a pool must not be empty because its new name was not looked up yet.
            table = loaded.table
            await self.resolver.use(table.names())
            self.table, self.files = table, loaded.files
            self.reload.version += 1
            self.reload.loaded_at = time.time()
            self.reload.errors = []
            self._publish()
            log.info("node file version %d: %d tasks", self.reload.version, len(table.tasks))
            return True

    def _publish(self) -> None:
        self.pools = resolve(self.table, self.resolver.addresses)
        members = {name: [e for group in groups for e in group] for name, groups in self.pools.items()}
        self.weights.set_pools(members)
        self.calls.keep(members)
        weights = {name: self.weights.weights(name) for name in self.pools}
        self.discovery.update(
            build(
                self.table,
                self.pools,
                weights,
                listeners={LISTENER: self._listener()},
                secrets=secrets(self.table.edge, self.files, self.table.pools.values()),
                collector=self._collector(),
            )
        )

    def _listener(self) -> Any:
        return listener(
            ListenerOptions(
                host=self.options.listen_host,
                port=self.listen_port,
                max_message_bytes=self.options.max_message_bytes,
                counters=self.counters.path if self.counters else None,
            ),
            self.table,
            self.files,
        )

    def _collector(self) -> Any | None:
        """Where spans go; None without tracing."""
        tracing = self.table.edge.tracing
        if tracing is None:
            return None
        host = tracing.collector.host
        found = self.resolver.addresses.get(host, ()) if tracing.collector.is_name else (host,)
        return collector_cluster(self.table.edge, found)

    def _observe(self, reports: Mapping[str, list[EndpointReport]]) -> None:
        self.calls.add(reports)
        changed = [pool for pool, found in reports.items() if self.weights.observe(pool, found)]
        if changed:
            self.discovery.update(
                self.discovery.snapshot.with_endpoints(
                    {
                        pool: load_assignment(pool, self.pools[pool], self.weights.weights(pool))
                        for pool in changed
                    }
                )
            )

    async def _follow_file(self) -> None:
        async for data in changes(self.options.sources.main, self._data):
            if data != self._data:  # SIGHUP may have been faster
                await self.apply(data)

    async def _reload_now(self) -> None:
        try:
            data = self.options.sources.main.read_bytes()
        except OSError as error:
            self.reload.errors = [f"{self.options.sources.main}: {error.strerror}"]
            log.error("cannot read the node file, keeping the running table: %s", error)
            return
        await self.apply(data)

    async def status_of(self, service: str) -> bool | None:
        """Health by service name: "" is the gateway itself, a task id is that task's pool."""
        if service == "":
            return self.ready
        digits = service.isascii() and service.isdigit() and len(service) <= 10
        task = self.table.tasks.get(int(service)) if digits else None
        if task is None or self.envoy is None:
            return None
        try:
            return await self.envoy.admin.gauge(f"cluster.{task.pool}.membership_healthy") > 0
        except OSError:
            return False

    @property
    def ready(self) -> bool:
        """Envoy takes traffic and is meant to go on doing so."""
        return self.live and not self.draining and self.envoy is not None and self.envoy.returncode is None

    # --- life ---

    def stop(self) -> None:
        """Asks for an orderly end, as SIGTERM does."""
        self._stop.set()

    async def run(self) -> int:
        """Serves until told to stop. The exit status: 0 after an orderly end. Raises StartError."""
        try:
            held = reserve_port(self.options.listen_host, self.options.listen_port)
        except OSError as error:
            raise StartError(
                f"cannot listen on {self.options.listen_host}:{self.options.listen_port}: {error.strerror};"
                " choose another port with --listen, or stop what uses it"
            ) from None
        with held, tempfile.TemporaryDirectory(prefix="dl-gateway-") as name:
            self.listen_port = held.getsockname()[1]
            folder = Path(name)  # 0700: nobody else reaches the sockets
            self.counters = CounterFile.create(folder / "calls", threads=self.options.concurrency)
            await self._load_first()
            return await self._serve(folder)

    def overview(self) -> Overview:
        """What the status page says of the gateway as a whole."""
        state = "draining" if self.draining else "serving" if self.ready else "starting"
        return Overview(
            listen=self.listen_text,
            state=state,
            ready=self.ready,
            version="",
            started_at=self.started_at,
            sources=tuple(str(path) for path in self.files),
            config_version=self.reload.version,
            loaded_at=self.reload.loaded_at,
            accepted=self.discovery.settled,
            rejected=self.reload.rejected,
            errors=tuple(self.reload.errors),
            envoy_error=self.discovery.last_error,
            unresolved=dict(self.resolver.errors),
            envoy_pid=self.envoy.pid if self.envoy else None,
            envoy_restarts=self.restarts,
            certificates=status_certificates.expiries(self.table, self.files),
        )

    async def _serve(self, folder: Path) -> int:
        watched = Watched(
            overview=self.overview,
            table=lambda: self.table,
            groups=lambda: self.pools,
            weights=self.weights.weights,
            envoy=lambda: self.envoy.admin if self.envoy else None,
            calls=self.calls,
            counters=lambda: self.counters,
        )
        self.monitor = Monitor(watched)
        admin = AdminServer(pages(self.monitor, watched))
        try:
            self.admin_port = await admin.start(self.options.admin_host, self.options.admin_port)
        except OSError as error:
            raise StartError(
                f"cannot listen on {self.options.admin_host}:{self.options.admin_port}: {error.strerror};"
                " choose another address with --admin"
            ) from None
        log.info("admin on http://%s:%d/", self.options.admin_host, self.admin_port)
        with contextlib.closing(admin):
            server = await self._serve_control(folder)
            try:
                return await self._run_envoy(folder)
            finally:
                await server.stop(grace=None)

    async def _load_first(self) -> None:
        try:
            data = self.options.sources.main.read_bytes()
        except OSError as error:
            raise StartError(
                f"{self.options.sources.main}: {error.strerror};"
                " give a node file with --nodes, or a gateway.toml with --config"
            ) from None
        if not await self.apply(data):
            raise StartError("\n".join(self.reload.errors))

    async def _serve_control(self, folder: Path) -> grpc.aio.Server:
        server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
        server.add_generic_rpc_handlers(
            (self.discovery.handler(), LoadReports(self._observe, self.calls).handler())
        )
        OwnServices(self.status_of).register(server)
        server.add_insecure_port(f"unix:{folder / 'control.sock'}")
        await server.start()
        return server

    async def _run_envoy(self, folder: Path) -> int:
        loop = asyncio.get_running_loop()
        background: set[asyncio.Task[None]] = set()

        def hang_up() -> None:
            task = asyncio.create_task(self._reload_now())
            background.add(task)
            task.add_done_callback(background.discard)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, hang_up)
        for work in (self._follow_file(), self.resolver.run(), self.monitor.run()):
            lasting = asyncio.create_task(work)
            lasting.add_done_callback(self._lasting_ended)
            background.add(lasting)
        try:
            status = await self._supervise(folder)
            return 1 if self._failed else status
        finally:
            for task in background:
                task.cancel()
            if self.envoy is not None:
                await self.envoy.stop()

    def _lasting_ended(self, task: asyncio.Task[None]) -> None:
        """A gateway that no longer follows its node file or its names would look well and not be: it stops."""
        if not task.cancelled():
            log.critical("a background task ended; stopping", exc_info=task.exception())
            self._failed = True
            self.stop()

    async def _supervise(self, folder: Path) -> int:
        crashes: list[float] = []
        stop = asyncio.create_task(self._stop.wait())
        try:
            while True:
                self.envoy = await self._start_envoy(folder)
                ready = asyncio.create_task(self._until_ready(self.envoy))
                ended = asyncio.create_task(self.envoy.wait())
                try:
                    await asyncio.wait({ready, ended, stop}, return_when=asyncio.FIRST_COMPLETED)
                    if ready.done() and not ended.done():
                        ready.result()
                        self.live = True
                        if not self._announced:
                            self._announced = True
                            print(f"READY {self.listen_text}", flush=True)
                        await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
                    if stop.done():
                        await self._drain(self.envoy)
                        return 0
                    if not self._announced:
                        raise StartError(
                            f"Envoy ended with status {self.envoy.returncode} before it was ready;"
                            " its log above says why"
                        )
                finally:
                    self.live = self.live and stop.done()
                    ready.cancel()
                    ended.cancel()
                now = time.monotonic()
                crashes = [t for t in crashes if now - t < _CRASH_WINDOW_S] + [now]
                if len(crashes) >= _CRASHES:
                    log.critical("Envoy ended %d times in %.0f s; giving up", len(crashes), _CRASH_WINDOW_S)
                    return 1
                self.restarts += 1
                pause = min(5.0, 0.1 * 2 ** (len(crashes) - 1))
                log.error(
                    "Envoy ended with status %s; starting it again in %.1f s", self.envoy.returncode, pause
                )
                await asyncio.wait({stop}, timeout=pause)
                if stop.done():
                    return 0
        finally:
            stop.cancel()

    @property
    def listen_text(self) -> str:
        """The public address, as callers write it."""
        host = self.options.listen_host
        return f"[{host}]:{self.listen_port}" if ":" in host else f"{host}:{self.listen_port}"

    async def _start_envoy(self, folder: Path) -> EnvoyProcess:
        admin_socket = folder / "envoy.sock"
        admin_socket.unlink(missing_ok=True)
        options = BootstrapOptions(
            control_socket=str(folder / "control.sock"), admin_socket=str(admin_socket)
        )
        return await EnvoyProcess.start(
            bootstrap(options),
            folder,
            str(admin_socket),
            concurrency=self.options.concurrency,
            drain_s=DRAIN_S,
            log_level=self.options.envoy_log_level,
        )

    async def _until_ready(self, envoy: EnvoyProcess) -> None:
        """Waits until Envoy takes traffic with the whole table. Raises StartError."""
        deadline = time.monotonic() + _START_DEADLINE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # not up yet, or too busy to answer in time: asked again
                if await envoy.admin.is_live() and await envoy.admin.has_listener():
                    return
            await asyncio.sleep(0.02)
        raise StartError(f"Envoy was not ready within {_START_DEADLINE_S:.0f} s")

    async def _drain(self, envoy: EnvoyProcess) -> None:
        """Unready, tell the callers to go, wait for the calls in flight to a deadline."""
        self.draining = True
        log.info("draining: health is NOT_SERVING")
        await asyncio.sleep(self.options.drain_grace_s)
        started = time.monotonic()
        # For DRAIN_S Envoy answers new calls still, with a GOAWAY on every connection that it answers on;
        # then it stops listening. Callers that stay connected without a call would hold up the end for
        # nothing.
        with contextlib.suppress(OSError):
            await envoy.admin.call("/drain_listeners?graceful", method="POST")
            while time.monotonic() - started < self.options.drain_deadline_s:
                settled = time.monotonic() - started > DRAIN_S + 0.1
                active = await envoy.admin.gauge(
                    f"http.{STATS}.downstream_{'rq' if settled else 'cx'}_active"
                )
                if active == 0:
                    break
                await asyncio.sleep(0.05)
            else:
                log.warning("calls still in flight after %g s are cut off", self.options.drain_deadline_s)
        await envoy.stop()
        log.info("drained")
