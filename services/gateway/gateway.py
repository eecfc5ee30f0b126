"""The control plane: holds the table, feeds every Envoy, follows the configuration's files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from libs.balancing.controller import EndpointReport
from services.gateway import status_certificates
from services.gateway.admin import AdminServer
from services.gateway.admin_pages import pages
from services.gateway.configuration import Loaded, Sources
from services.gateway.control_keepsake import State
from services.gateway.control_link import Supervised
from services.gateway.control_reload import Reloader, ReloadState
from services.gateway.control_weights import Weights
from services.gateway.discovery import Discovery
from services.gateway.health_ask import Asker
from services.gateway.health_probes import HealthProbes, Target
from services.gateway.listener import ListenerOptions, listener
from services.gateway.load_reports import INTERVAL_MS, CallCounts, LoadReports
from services.gateway.metrics_counters import CounterFile
from services.gateway.names import DEFAULT_MAX_MESSAGE_BYTES, LISTENER
from services.gateway.observe import collector_cluster
from services.gateway.own_health import Health
from services.gateway.own_services import OwnServices
from services.gateway.process import EnvoyAdmin
from services.gateway.resolver import Resolver
from services.gateway.snapshot import Group, build, load_assignment, resolve, resource
from services.gateway.status import Overview
from services.gateway.status_monitor import Monitor
from services.gateway.status_monitor import Sources as Watched
from services.gateway.supervisor_envoy import ADMIN_SOCKET, CONTROL_SOCKET
from services.gateway.supervisor_folder import made_at
from services.gateway.supervisor_link import EnvoyState
from services.gateway.supervisor_place import Place, StartError
from services.gateway.table import HealthCheck, Table
from services.gateway.tls import secrets
from services.gateway.watch import Contents, changes
from services.gateway.xds_clients import ClientView

log = logging.getLogger(__name__)

_SERVER_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    # Envoys elsewhere ask every 10 s whether we are there.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
]


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """The `serve` command's flags that matter to the control plane."""

    sources: Sources
    listen_host: str
    concurrency: int = 1
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    xds_host: str = ""  # where other Envoys and gRPC clients are told the table; "" is nowhere


class Gateway:
    """One gateway's control plane."""

    def __init__(self, options: GatewayOptions, place: Place, supervised: Supervised) -> None:
        self.options = options
        self.place = place
        self.supervised = supervised
        self.table = Table({})
        self.files: Mapping[Path, bytes] = {}  # that the table came from
        self.reloader = Reloader(options.sources)
        self.discovery = Discovery()
        self.weights = Weights(time.monotonic)
        self.calls = CallCounts()
        self.counters: CounterFile | None = None
        self.started_at = made_at(place.folder)
        self.resolver = Resolver(self._found_out)
        self.state = EnvoyState()
        self.pools: dict[str, list[Group]] = {}  # each pool's instances, by order of preference
        self._admin = EnvoyAdmin(str(place.folder / ADMIN_SOCKET))
        self._health = Health(lambda: self.table, self._admin.memberships)
        self.probes = HealthProbes(Asker(lambda: self.files).ask, self._found_out)
        self._stop = asyncio.Event()
        self._failed = False  # a task that must live as long as the gateway ended
        self._apply_lock = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()

    # --- what the supervisor says ---

    def envoy_changed(self, state: EnvoyState) -> None:
        """Envoy came, went, or is to go."""
        self.state = state

    def reload_soon(self) -> None:
        """Reads the configuration again, whether or not its files seem to have changed."""
        self._in_background(self.apply())

    def stop(self) -> None:
        """Asks for the end."""
        self._stop.set()

    @property
    def envoy(self) -> EnvoyAdmin | None:
        """Our own Envoy's admin interface; None while it does not run."""
        return None if self.state.pid is None else self._admin

    @property
    def ready(self) -> bool:
        """Envoy takes traffic and is meant to go on doing so."""
        return self.state.live and not self.state.draining

    @property
    def reload(self) -> ReloadState:
        return self.reloader.state

    @property
    def listen_text(self) -> str:
        """The public address, as callers write it."""
        host, port = self.options.listen_host, self.place.listen_port
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # --- the table ---

    async def apply(self, contents: Contents | None = None) -> bool:
        """Puts the configuration to work, or rejects all of it and keeps the running table. `contents` are files
        that were read already."""
        async with self._apply_lock:
            with self.supervised.busy():
                loaded = self.reloader.load(contents)
                if loaded is None:
                    return False
                await self._use(loaded)
            self.reload.errors = []
            self.reloader.used(loaded)
            self._keep()
            return True

    async def _use(self, loaded: Loaded) -> None:
        # Names first: a pool must not be empty because its new name was not looked up yet.
        await self.resolver.use(loaded.table.names())
        self.table, self.files = loaded.table, loaded.files
        self._publish()

    async def _load_first(self) -> None:
        """Raises StartError when there is nothing to go on with."""
        kept = self.place.keepsake.load()
        if kept is None:
            if not await self.apply():
                raise StartError("\n".join(self.reload.errors))
            return
        # The control plane before us ended: Envoy runs on what that one had.
        self.resolver.remember(kept.addresses)
        self.probes.health = {pool: HealthCheck(kind) for pool, kind in kept.health.items()}
        self.reload.version, self.reload.rejected = kept.version - 1, kept.rejected
        if await self.apply():
            return
        recalled = self.reloader.recall(kept.files)
        if recalled is None:
            raise StartError("\n".join(self.reload.errors))
        await self._use(recalled)
        self.reloader.used(recalled)

    def _found_out(self) -> None:
        self._publish()
        self._keep()

    def _keep(self) -> None:
        try:
            self.place.keepsake.save(
                State(
                    files=self.files,
                    addresses=self.resolver.addresses,
                    health=self.probes.health,
                    version=self.reload.version,
                    rejected=self.reload.rejected,
                )
            )
        except OSError as error:  # no memory left: the next control plane would read the files
            log.error("cannot keep the state for a restart: %s", error)

    def _publish(self) -> None:
        self.pools = resolve(self.table, self.resolver.addresses)
        members = {name: [e for group in groups for e in group] for name, groups in self.pools.items()}
        self.weights.set_pools(self.table, self.pools)
        self.calls.keep(members)
        self.probes.use(_probed(self.table, self.pools))
        weights = {name: self.weights.of(name) for name in self.pools}
        self.discovery.update(
            build(
                self.table,
                self.pools,
                weights,
                listeners={LISTENER: self._listener()},
                secrets=secrets(self.table.edge, self.files, self.table.pools.values()),
                collector=self._collector(),
                health=self.probes.health,
            ),
            ClientView(self.table, self.pools, self.weights.of),
            lambda host, port: resource(self._listener_at(host, port)),
        )

    def _listener(self) -> Any:
        return self._listener_at(
            self.options.listen_host, self.place.listen_port, self.counters.path if self.counters else None
        )

    def _listener_at(self, host: str, port: int, counters: Path | None = None) -> Any:
        options = ListenerOptions(
            host=host, port=port, max_message_bytes=self.options.max_message_bytes, counters=counters
        )
        return listener(options, self.table, self.files)

    def _collector(self) -> Any | None:
        """Where spans go; None without tracing."""
        tracing = self.table.edge.tracing
        if tracing is None:
            return None
        host = tracing.collector.host
        found = self.resolver.addresses.get(host, ()) if tracing.collector.is_name else (host,)
        return collector_cluster(self.table.edge, found)

    def _observe(self, reports: Mapping[str, list[EndpointReport]]) -> None:
        self._reweigh(self.weights.observe(reports))

    async def _follow_latencies(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_MS / 1000)
            if self.counters is not None and self.weights.uses_latency:
                self._reweigh(self.weights.observe_latencies(self.counters.instances()))

    def _reweigh(self, pools: Iterable[str]) -> None:
        changed = {name: load_assignment(name, self.pools[name], self.weights.of(name)) for name in pools}
        if changed:
            self.discovery.reweigh(self.discovery.snapshot.with_endpoints(changed))

    async def _follow_files(self) -> None:
        async for contents in changes(lambda: self.reloader.seen):
            await self.apply(contents)

    # --- what others ask ---

    async def _status_of(self, service: str) -> bool | None:
        return self.ready if service == "" else await self._health.of(service)

    async def _status_elsewhere(self, service: str) -> bool | None:
        """For callers of Envoys elsewhere: those go on without us."""
        return True if service == "" else await self._health.of(service)

    def overview(self) -> Overview:
        """What the status page says of the gateway as a whole."""
        state = "draining" if self.state.draining else "serving" if self.ready else "starting"
        return Overview(
            listen=self.listen_text,
            state=state,
            ready=self.ready,
            started_at=self.started_at,
            sources=tuple(str(path) for path in self.files),
            config_version=self.reload.version,
            loaded_at=self.reload.loaded_at,
            accepted=self.discovery.settled,
            rejected=self.reload.rejected,
            errors=tuple(self.reload.errors),
            envoy_error=self.discovery.last_error,
            unresolved=dict(self.resolver.errors),
            envoy_pid=self.state.pid,
            envoy_restarts=self.state.restarts,
            control_restarts=self.state.control_restarts,
            certificates=status_certificates.expiries(self.table, self.files),
        )

    # --- life ---

    async def run(self) -> int:
        """Serves until told to stop. The exit status. Raises StartError."""
        try:
            self.counters = CounterFile.create(self.place.folder / "calls", threads=self.options.concurrency)
        except OSError as error:  # no room: serving matters more than counting
            log.error("calls are not counted: %s: %s", self.place.folder, error.strerror)
        await self._load_first()
        watched = Watched(
            overview=self.overview,
            table=lambda: self.table,
            groups=lambda: self.pools,
            weights=self.weights.effective,
            envoy=lambda: self.envoy,
            calls=self.calls,
            counters=lambda: self.counters,
        )
        monitor = Monitor(watched)
        admin = AdminServer(pages(monitor, watched))
        await admin.start(self.place.admin)
        host, port = self.place.admin.getsockname()[:2]
        log.info("admin on http://%s:%d/", f"[{host}]" if ":" in host else host, port)
        with contextlib.closing(admin):
            servers = await self._serve_control(self.place.folder)
            try:
                for work in (
                    self._follow_files(),
                    self._follow_latencies(),
                    self.resolver.run(),
                    self.probes.run(),
                    monitor.run(),
                ):
                    self._in_background(work).add_done_callback(self._lasting_ended)
                self.supervised.started()
                await self._stop.wait()
                return 1 if self._failed else 0
            finally:
                for task in self._background:
                    task.cancel()
                await asyncio.gather(*(server.stop(grace=None) for server in servers))

    async def _serve_control(self, folder: Path) -> list[grpc.aio.Server]:
        """For our own Envoy; and for others, where an address for that was given."""
        places = [(f"unix:{folder / CONTROL_SOCKET}", self._status_of)]
        if self.options.xds_host:
            host, port = self.options.xds_host, self.place.xds_port
            places.append((f"[{host}]:{port}" if ":" in host else f"{host}:{port}", self._status_elsewhere))
            log.info("xDS for other Envoys and gRPC clients on %s", places[-1][0])
        servers = []
        for address, status_of in places:
            server = grpc.aio.server(options=_SERVER_OPTIONS)
            reports = LoadReports(self._observe, self.calls)
            server.add_generic_rpc_handlers((self.discovery.handler(), reports.handler()))
            OwnServices(status_of).register(server)
            server.add_insecure_port(address)
            await server.start()
            servers.append(server)
        return servers

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _lasting_ended(self, task: asyncio.Task[Any]) -> None:
        """A control plane that no longer follows its files or its names would look well and not be: it ends, and
        the supervisor starts another."""
        if not task.cancelled():
            log.critical("a background task ended; starting again", exc_info=task.exception())
            self._failed = True
            self.stop()


def _probed(table: Table, pools: Mapping[str, Sequence[Group]]) -> dict[str, list[Target]]:
    """The instances of the pools whose checks are to be found out. Those of a stand-in are looked at as its own."""
    found: dict[str, list[Target]] = {}
    for name, groups in pools.items():
        pool = table.pools[name]
        if pool.health_check is HealthCheck.AUTO and groups:
            server_name = pool.tls.server_name if pool.tls else ""
            found[name] = [
                Target(endpoint, pool.tls, server_name or groups[0].hostnames.get(endpoint, ""))
                for endpoint in groups[0]
            ]
    return found
