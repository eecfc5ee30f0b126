"""The configuration as the gateway runs on it: pools, tasks and the edge. Frozen, validated once, replaced whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from libs.balancing.endpoint import Endpoint
from libs.balancing.policy import PolicyName

DEFAULT_WEIGHT = 100
DEFAULT_POLICY = PolicyName.PEAK_EWMA  # docs/balancing.md has the simulations that chose it


class HealthCheck(StrEnum):
    """How instances are asked whether they are well."""

    AUTO = "auto"  # grpc where an instance of the pool answers it, http2 otherwise
    GRPC = "grpc"  # grpc.health.v1: SERVING is well
    HTTP2 = "http2"  # any answer to a gRPC call: the process lives, whatever it serves
    TCP = "tcp"  # a connection is accepted
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was read. `line` counts from 1."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class BackendTls:
    """TLS towards the instances of a pool. Paths are absolute."""

    ca: Path | None = None  # None: the system's authorities
    cert: Path | None = None  # with key: the gateway's own certificate, where the instances ask for one
    key: Path | None = None
    server_name: str = ""  # the name that the instances' certificate must hold; "" is the host as written


@dataclass(frozen=True, slots=True)
class Pool:
    """Instances that are equal to a caller, and how calls are spread over them. `name` is the cluster's in Envoy."""

    name: str
    members: Mapping[Endpoint, int]  # in file order, with their weights (1 to 1000)
    policy: PolicyName = DEFAULT_POLICY
    fallback: str = ""  # the pool that takes over while this one has too few healthy instances
    health_check: HealthCheck = HealthCheck.AUTO
    max_in_flight: int = 10_000  # calls at the instances; more are refused
    max_queued: int = 10_000  # calls that wait for a connection; more are refused
    retry_budget_percent: int = 20  # of the calls in flight
    tls: BackendTls | None = None
    places: tuple[Place, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Share:
    """A pool that gets a share of a task's calls, in percent (0.0001 to 100)."""

    pool: str
    percent: float


@dataclass(frozen=True, slots=True)
class Task:
    """One model: its id, the longest that a call may take, and the pools that answer it."""

    task_id: int
    timeout_ms: int
    pool: str
    canary: Share | None = None  # takes its share away from the pool
    shadow: Share | None = None  # gets copies; its answers are thrown away
    retries: int = 1
    max_qps: int | None = None
    burst: int | None = None  # calls that may come at once; None is as many as `max_qps`
    clients: frozenset[str] | None = None  # who may call: names from the API keys file; None is everybody
    jwt: str = ""  # the name of the token provider that must vouch for the caller; "" is none
    places: tuple[Place, ...] = field(default=(), compare=False)

    @property
    def line(self) -> int:
        """Where the task is first spoken of; 0 for one that came from no file."""
        return self.places[0].line if self.places else 0

    def pools(self) -> Iterator[str]:
        """The task's pools by name: its own, the canary's, the shadow's."""
        yield self.pool
        for share in (self.canary, self.shadow):
            if share is not None:
                yield share.pool


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """TLS towards the callers. Paths are absolute; the files are watched."""

    cert: Path
    key: Path
    client_ca: Path | None = None  # with it callers must present a certificate that it signed


@dataclass(frozen=True, slots=True)
class JwtProvider:
    """Who issues tokens. `jwks` is a file of public keys."""

    name: str
    issuer: str
    jwks: Path
    audiences: tuple[str, ...] = ()


class LogWhen(StrEnum):
    ALL = "all"
    ERRORS = "errors"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class AccessLog:
    """Where a line a call goes, and of which calls."""

    path: str = "-"  # "-" is standard output
    when: LogWhen = LogWhen.OFF
    sample_percent: float = 100.0  # of the calls that ended well


@dataclass(frozen=True, slots=True)
class Tracing:
    """OpenTelemetry spans over gRPC (OTLP)."""

    collector: Endpoint
    sample_percent: float = 1.0
    service_name: str = "dl-gateway"


@dataclass(frozen=True, slots=True)
class Edge:
    """What holds for every caller."""

    tls: ListenerTls | None = None
    api_keys: Path | None = None  # the file of clients and their keys
    jwt: Mapping[str, JwtProvider] = field(default_factory=dict)
    web: bool = True  # gRPC-Web and JSON for browsers and curl
    cors_origins: tuple[str, ...] = ()  # web pages that may call; none unless listed
    access_log: AccessLog = field(default_factory=AccessLog)
    tracing: Tracing | None = None
    max_connections: int = 50_000

    def files(self) -> frozenset[Path]:
        """Every file that has to be read for it."""
        found = {provider.jwks for provider in self.jwt.values()}
        if self.tls is not None:
            found |= {self.tls.cert, self.tls.key}
            if self.tls.client_ca is not None:
                found.add(self.tls.client_ca)
        if self.api_keys is not None:
            found.add(self.api_keys)
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class Table:
    """Everything, by id or name. Every pool that a task or a pool names is in `pools`."""

    tasks: Mapping[int, Task]
    pools: Mapping[str, Pool] = field(default_factory=dict)
    edge: Edge = field(default_factory=Edge)

    def names(self) -> frozenset[str]:
        """Every host that has to be resolved."""
        hosts = {e.host for pool in self.pools.values() for e in pool.members if e.is_name}
        if self.edge.tracing is not None and self.edge.tracing.collector.is_name:
            hosts.add(self.edge.tracing.collector.host)
        return frozenset(hosts)

    def files(self) -> frozenset[Path]:
        """Every file that has to be read for it: certificates, keys, lists of clients."""
        found = set(self.edge.files())
        for pool in self.pools.values():
            if pool.tls is not None:
                found |= {path for path in (pool.tls.ca, pool.tls.cert, pool.tls.key) if path is not None}
        return frozenset(found)

    def chain(self, name: str) -> list[Pool]:
        """A pool and those that take over for it, in order; each once, whatever the configuration says."""
        found: dict[str, Pool] = {}
        while name and name not in found:
            found[name] = self.pools[name]
            name = found[name].fallback
        return list(found.values())


def pool_name(task_id: int, part: str = "") -> str:
    """The name of a pool that belongs to one task alone; `part` is canary, shadow or fallback."""
    return f"task-{task_id}-{part}" if part else f"task-{task_id}"
