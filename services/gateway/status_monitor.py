"""Looks at the running gateway: samples its counters, asks Envoy what only Envoy knows, and puts it all together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from libs.balancing.endpoint import Endpoint
from services.gateway import status
from services.gateway.load_reports import CallCounts
from services.gateway.metrics_counters import CounterFile, InstanceCounts, TaskCounts
from services.gateway.metrics_page import Numbers
from services.gateway.names import STATS
from services.gateway.process import EnvoyAdmin
from services.gateway.status import Host, InstanceRates, Overview, View
from services.gateway.status_history import SHORT_S, STEP_S, History, Past, Point
from services.gateway.table import Table

log = logging.getLogger(__name__)

TICK_S = 1.0
FAILURES_SHOWN = 100

# Envoy's names of the statistics that are told, and ours. Those of one name are added up.
_STATS = {
    f"http.{STATS}.downstream_cx_active": "connections",
    f"http.{STATS}.downstream_cx_total": "connections_total",
    f"http.{STATS}.downstream_rq_active": "in_flight",
    f"listener.{STATS}.downstream_cx_overflow": "connections_refused",
    f"listener.{STATS}.downstream_global_cx_overflow": "connections_refused",
    "server.memory_allocated": "memory",
}
_EJECTIONS = "outlier_detection.ejections_enforced_total"

Key = tuple[str, Endpoint]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the monitor looks. Each is asked anew every time, so that whatever is behind it may be replaced."""

    overview: Callable[[], Overview]
    table: Callable[[], Table]
    groups: Callable[[], Mapping[str, Sequence[Mapping[Endpoint, int]]]]  # each pool's instances
    weights: Callable[[str], Mapping[Endpoint, int]]  # of a pool, as they are now
    envoy: Callable[[], EnvoyAdmin | None]
    calls: CallCounts
    counters: Callable[[], CounterFile | None]


@dataclass(frozen=True, slots=True)
class _Tried:
    """What an instance's calls came to."""

    ok: int
    failed: int
    answered: int
    latency_us: int


class Cached(Generic[_T]):
    """A value that is dear to get: asked for again when it is older than it took to get five times over."""

    def __init__(self, get: Callable[[], Awaitable[_T]], least_s: float = 1.0) -> None:
        self._get, self._least_s = get, least_s
        self._value: _T | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def get(self) -> _T:
        """Raises what getting it raises."""
        async with self._lock:
            started = time.monotonic()
            if self._value is None or started >= self._until:
                self._value = await self._get()
                ended = time.monotonic()
                self._until = ended + max(self._least_s, 5 * (ended - started))
            return self._value


class Monitor:
    """One gateway, watched. `run` samples; the others answer at any time."""

    def __init__(self, sources: Sources, clock: Callable[[], float] = time.monotonic) -> None:
        self._sources = sources
        self._clock = clock
        self._history = History()
        self._instances: Past[Key, _Tried] = Past()
        self._hosts = Cached(self._get_hosts)
        self._stats = Cached(self._get_stats)
        self._ticks = 0

    async def run(self) -> None:
        """Samples once a second, for ever."""
        while True:
            self.tick()
            await asyncio.sleep(TICK_S)

    def tick(self) -> None:
        now = self._clock()
        self._history.tick(now, self._tasks())
        if self._ticks % int(STEP_S / TICK_S) == 0:
            self._instances.add(now, self._tried())
        self._ticks += 1
        counters = self._sources.counters()
        if counters is not None and self._ticks % 60 == 0:
            table, groups = self._sources.table(), self._sources.groups()
            counters.forget(
                lambda task: not task.isdigit() or int(task) in table.tasks,
                # Also the pool that stays changes its instances: behind a name they come and go for ever.
                lambda pool, instance: any(instance in group for group in groups.get(pool, ())),
            )

    async def view(self) -> View:
        """Everything, now. An Envoy that does not answer leaves its part empty and is named as a problem."""
        overview, (hosts, stats, error) = self._sources.overview(), await self._ask()
        if error and not overview.envoy_error:
            overview = _with_error(overview, error)
        table, now, tasks = self._sources.table(), self._clock(), self._tasks()
        counters = self._sources.counters()
        return View(
            now=time.time(),
            overview=overview,
            table=table,
            groups=self._sources.groups(),
            weights={name: self._sources.weights(name) for name in table.pools},
            hosts=hosts,
            counts=tasks,
            windows=self._history.windows(now, tasks),
            total=self._history.total(now, tasks),
            instance_rates=self._instance_rates(now),
            failures=counters.failures(FAILURES_SHOWN) if counters else (),
            envoy=stats,
        )

    async def numbers(self) -> Numbers:
        """What the metrics page says."""
        overview, (hosts, stats, error) = self._sources.overview(), await self._ask()
        table, counters = self._sources.table(), self._sources.counters()
        return Numbers(
            overview=_with_error(overview, error) if error else overview,
            table=table,
            tasks=self._tasks(),
            instances=self._latencies(),
            attempts=self._sources.calls.attempts(),
            in_flight=self._sources.calls.in_flight(),
            weights={name: self._sources.weights(name) for name in table.pools},
            hosts=hosts,
            ejections={
                name.removeprefix("cluster.").removesuffix("." + _EJECTIONS): value
                for name, value in stats.items()
                if name.endswith(_EJECTIONS)
            },
            envoy=stats,
            lost=counters.lost if counters else 0,
        )

    def plots(self, tasks: Sequence[str]) -> dict[str, list[Point]]:
        """The points of some tasks, and of all together under ""."""
        return {"": self._history.total_plot()} | {task: self._history.plot(task) for task in tasks}

    def _tasks(self) -> dict[str, TaskCounts]:
        counters = self._sources.counters()
        return counters.tasks() if counters else {}

    def _latencies(self) -> dict[Key, InstanceCounts]:
        counters = self._sources.counters()
        return counters.instances() if counters else {}

    def _tried(self) -> dict[Key, _Tried]:
        latencies, found = self._latencies(), {}
        for key, (ok, failed) in self._sources.calls.attempts().items():
            latency = latencies.get(key)
            found[key] = _Tried(
                ok, failed, latency.answered if latency else 0, latency.latency_us if latency else 0
            )
        return found

    def _instance_rates(self, now: float) -> dict[Key, InstanceRates]:
        past = self._instances.at(now, SHORT_S)
        if past is None:
            return {}
        seconds, before = max(0.001, now - past[0]), past[1]
        found = {}
        for key, tried in self._tried().items():
            old = before.get(key)
            if old is None or old.ok > tried.ok or old.answered > tried.answered:
                old = _Tried(0, 0, 0, 0)
            calls = tried.ok + tried.failed - old.ok - old.failed
            if calls > 0:
                answered = tried.answered - old.answered
                found[key] = InstanceRates(
                    calls / seconds,
                    (tried.failed - old.failed) / calls,
                    (tried.latency_us - old.latency_us) / answered / 1e6 if answered else None,
                )
        return found

    async def _ask(self) -> tuple[dict[str, dict[str, Host]], dict[str, int], str]:
        try:
            return await self._hosts.get(), await self._stats.get(), ""
        except (OSError, ValueError) as error:
            return {}, {}, f"Envoy's admin does not answer: {str(error) or 'it hangs'}"

    async def _get_hosts(self) -> dict[str, dict[str, Host]]:
        envoy = self._sources.envoy()
        if envoy is None:
            raise OSError("Envoy is being started")
        return status.hosts(await envoy.json("/clusters?format=json"))

    async def _get_stats(self) -> dict[str, int]:
        envoy = self._sources.envoy()
        if envoy is None:
            raise OSError("Envoy is being started")
        found = dict.fromkeys(_STATS.values(), 0)
        wanted = "|".join(_STATS).replace(".", r"\.")
        names = rf"^({wanted}|cluster\..*{_EJECTIONS})$"
        for stat in (await envoy.json(f"/stats?format=json&usedonly&filter={names}")).get("stats", ()):
            if "name" in stat:
                name = _STATS.get(stat["name"], stat["name"])
                found[name] = found.get(name, 0) + int(stat["value"])
        return found


def _with_error(overview: Overview, error: str) -> Overview:

    return replace(overview, envoy_error=overview.envoy_error or error)
