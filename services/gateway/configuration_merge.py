"""What the files say -> the table: defaults filled in, names followed, contradictions reported. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from libs.balancing.endpoint import Endpoint
from libs.balancing.nodefile import DEFAULT_TIMEOUT_MS, NodeLine
from services.gateway import access_keys
from services.gateway.configfile import (
    ANY_CLIENT,
    NO_CLIENTS,
    NO_JWT,
    ConfigFile,
    PoolSays,
    ShareSays,
    TaskSays,
)
from services.gateway.configfile_section import bare
from services.gateway.configuration_errors import nearest
from services.gateway.table import DEFAULT_WEIGHT, Place, Pool, Share, Table, Task, pool_name

T = TypeVar("T")


def merge(config: ConfigFile, nodes: Path | None, lines: Sequence[NodeLine], *, whole: bool) -> Table:
    """The table; what is wrong is added to `config.errors`. With `whole` False some of the node file's lines could not
    be read, and a task without endpoints may be theirs."""
    merger = _Merger(config, nodes, {line.task_id: line for line in lines}, whole)
    return merger.table()


def check_clients(config: ConfigFile, table: Table, files: Mapping[Path, bytes]) -> None:
    """Reports the clients that tasks let in and that have no key."""
    path = table.edge.api_keys
    if path is None or path not in files:
        return
    keys, _ = access_keys.read(files[path], path)
    known = set(keys.values())
    for says in (config.defaults, *config.tasks.values()):
        for name in sorted(says.clients or ()):
            if name not in known and name != ANY_CLIENT:
                config.errors.add(
                    (*says.keys, "clients"),
                    f"{path} has no client {name[:60]!r}",
                    "names from that file",
                    nearest(name, known),
                )


class _Merger:
    def __init__(
        self, config: ConfigFile, nodes: Path | None, lines: Mapping[int, NodeLine], whole: bool
    ) -> None:
        self.config = config
        self.nodes = nodes
        self.lines = lines
        self.whole = whole
        self.errors = config.errors
        self.pools: dict[str, Pool] = {}

    def table(self) -> Table:
        for name, says in self.config.pools.items():
            self.pools[name] = self.pool(name, says.endpoints or {}, says)
        silent = TaskSays((), PoolSays(()))
        tasks: dict[int, Task] = {}
        for task_id, line in self.lines.items():
            tasks[task_id] = self.task(task_id, self.config.tasks.get(task_id, silent), line)
        for task_id, task in self.config.tasks.items():
            if task_id not in tasks:
                tasks[task_id] = self.task(task_id, task, None)
        if not tasks and self.whole:
            self.errors.add(
                (), "has no task", "at least one [tasks.ID]", 'or give a node file: nodes = "nodefile.txt"'
            )
        self.check_cycles()
        return Table(tasks, self.pools, self.config.edge)

    # --- tasks ---

    def task(self, task_id: int, says: TaskSays, line: NodeLine | None) -> Task:
        defaults = self.config.defaults
        timeout_ms = _said(
            DEFAULT_TIMEOUT_MS, says.timeout_ms, line.timeout_ms if line else None, defaults.timeout_ms
        )
        places = self.places(says.keys, line)
        if says.keys:
            self.check_endpoints(task_id, says, line)
        if says.pool is not None:
            name = self.known(says.pool, (*says.keys, "pool"))
        else:
            name = pool_name(task_id)
            members = says.own.endpoints
            if members is None:
                members = dict.fromkeys(line.endpoints, DEFAULT_WEIGHT) if line else {}
            self.pools[name] = replace(self.pool(name, members, says.own, task_id), places=places)
        max_qps = _said(None, says.max_qps, defaults.max_qps)
        burst = _said(None, says.burst, defaults.burst)
        if says.burst is not None and max_qps is None:
            self.errors.add((*says.keys, "burst"), "has no max_qps beside it", "max_qps as well")
        return Task(
            task_id,
            timeout_ms,
            name,
            canary=self.share(task_id, "canary", says.canary, name),
            shadow=self.share(task_id, "shadow", says.shadow, name),
            retries=_said(1, says.retries, defaults.retries),
            max_qps=max_qps,
            burst=None if max_qps is None else burst,
            clients=self.clients(says),
            jwt=self.jwt(says),
            places=places,
        )

    def places(self, keys: Sequence[str | int], line: NodeLine | None) -> tuple[Place, ...]:
        found = [Place(self.nodes, line.line)] if line is not None and self.nodes is not None else []
        if keys:
            found.append(Place(self.errors.path, self.errors.lines.of(tuple(keys))))
        return tuple(found)

    def check_endpoints(self, task_id: int, says: TaskSays, line: NodeLine | None) -> None:
        key = "pool" if says.pool is not None else "endpoints"
        said = says.pool is not None or says.own.endpoints is not None
        if said and line is not None:
            self.errors.add(
                (*says.keys, key),
                f"task {task_id} has endpoints at {self.nodes}:{line.line} already",
                "a task's endpoints in one of the files",
                f"remove {key} here, or that line",
            )
        elif not said and line is None and self.whole and task_id > 0:
            problem = "has neither endpoints nor a pool"
            if self.nodes is not None:
                problem += f", and {self.nodes} has no line of this task"
            self.errors.add(says.keys, problem, 'endpoints = ["host:port"] or pool = "NAME"')

    def clients(self, says: TaskSays) -> frozenset[str] | None:
        found = _said(None, says.clients, self.config.defaults.clients)
        if found is None or found == NO_CLIENTS:
            return None
        if self.config.edge.api_keys is None:
            keys = says.keys if says.clients is not None else ("defaults",)
            self.add_once((*keys, "clients"), "has no list of keys to go by", '[auth] api_keys = "keys.txt"')
        return found

    def jwt(self, says: TaskSays) -> str:
        found = _said(None, says.jwt, self.config.defaults.jwt)
        if found is None or found == NO_JWT:
            return NO_JWT
        providers = self.config.edge.jwt
        if found not in providers:
            keys = says.keys if says.jwt is not None else ("defaults",)
            self.add_once(
                (*keys, "jwt"),
                f"there is no provider {found[:60]!r}",
                "the name of an [auth.jwt.NAME]",
                nearest(found, providers) or f"add [auth.jwt.{found[:60]}]",
            )
        return found

    def share(self, task_id: int, part: str, says: ShareSays | None, own: str) -> Share | None:
        if says is None:
            return None
        if says.pool is not None:
            name = self.known(says.pool, (*says.keys, "pool"))
            if name == own:
                self.errors.add((*says.keys, "pool"), "is the task's own pool", "another pool")
        else:
            name = pool_name(task_id, part)
            like = self.pools.get(own)
            if like is not None:  # its equal in everything but where it runs
                places = self.places(says.keys, None)
                self.pools[name] = replace(
                    like, name=name, members=says.endpoints or {}, fallback="", places=places
                )
        # 0 is how a canary is paused: its pool is kept, and its health known.
        return Share(name, says.percent) if says.percent else None

    # --- pools ---

    def pool(
        self, name: str, members: Mapping[Endpoint, int], says: PoolSays, task_id: int | None = None
    ) -> Pool:
        defaults = self.config.defaults.own
        plain = Pool(name, members)
        fallback = ""
        if says.fallback is not None:
            fallback = self.known(says.fallback, (*says.keys, "fallback"))
        elif says.fallback_endpoints is not None:
            fallback = pool_name(task_id, "fallback") if task_id is not None else f"dl-{name}-fallback"
        tls = says.tls or (None if says.plaintext else defaults.tls)
        if tls is not None and not tls.server_name and not all(e.is_name for e in members):
            self.add_once(
                (*(says.keys if says.tls else ("defaults",)), "tls"),
                "has no server_name, and an instance is given by its number",
                "the name that the instances' certificate holds",
                'tls = { server_name = "models.internal" }',
            )
        pool = Pool(
            name,
            members,
            _said(plain.policy, says.policy, defaults.policy),
            fallback,
            _said(plain.health_check, says.health_check, defaults.health_check),
            _said(plain.max_in_flight, says.max_in_flight, defaults.max_in_flight),
            _said(plain.max_queued, says.max_queued, defaults.max_queued),
            _said(plain.retry_budget_percent, says.retry_budget_percent, defaults.retry_budget_percent),
            tls,
            self.places(says.keys, None),
        )
        if says.fallback_endpoints is not None:
            self.pools[fallback] = replace(pool, name=fallback, members=says.fallback_endpoints, fallback="")
        return pool

    def known(self, name: str, keys: tuple[str | int, ...]) -> str:
        if name not in self.config.pools:
            self.errors.add(
                keys,
                f"there is no pool {name[:60]!r}",
                "the name of a [pools.NAME]",
                nearest(name, self.config.pools) or f"add [pools.{name[:60]}]",
            )
        return name

    def check_cycles(self) -> None:
        """Each circle of fallbacks once, at the pool that stands first in the file."""
        seen: set[str] = set()
        for start in self.config.pools:
            path: list[str] = []
            name = start
            while name in self.pools and name not in seen:
                seen.add(name)
                path.append(name)
                name = self.pools[name].fallback
            if name in path:
                circle = " -> ".join(map(bare, [*path[path.index(name) :], name]))
                self.errors.add(
                    ("pools", name, "fallback"),
                    f"goes in a circle: {circle}",
                    "a chain of fallbacks that ends",
                )

    def add_once(self, keys: tuple[str | int, ...], problem: str, expected: str, hint: str = "") -> None:
        """Reports what several tasks may have from the same default."""
        count = len(self.errors.found)
        self.errors.add(keys, problem, expected, hint)
        if self.errors.found[-1] in self.errors.found[:count]:
            self.errors.found.pop()


def _said(default: T, *values: T | None) -> T:
    """The first value that is said."""
    return next((value for value in values if value is not None), default)
