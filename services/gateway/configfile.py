"""`gateway.toml`: what a node file cannot say. Pure: bytes in, what they say out, with every error.

The shapes here hold what the file says and nothing else: None is silence. configuration_merge.py adds the node file
and the defaults.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from libs.balancing.endpoint import Endpoint
from libs.balancing.nodefile import MAX_TASK_ID, MAX_TIMEOUT_MS
from libs.balancing.policy import PolicyName
from services.gateway.configfile_edge import read_edge
from services.gateway.configfile_lines import Keys, Lines
from services.gateway.configfile_section import Errors, Section, absolute
from services.gateway.configuration_errors import ConfigError
from services.gateway.table import DEFAULT_WEIGHT, BackendTls, Edge, HealthCheck

MAX_WEIGHT = 1000
MAX_RETRIES = 10
MAX_CALLS = 1_000_000  # in flight at, or waiting for, one pool
MAX_QPS = 10_000_000
ANY_CLIENT = "*"
NO_CLIENTS: frozenset[str] = (
    frozenset()
)  # clients = false: nobody is asked for a key, which overrides a default
NO_JWT = ""  # jwt = false likewise

POOL_KEYS = ("policy", "health_check", "max_in_flight", "max_queued", "retry_budget_percent", "tls")
_POOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
_RESERVED_NAME = re.compile(r"task-\d.*|control-plane|own-services|otel-collector|dl-.*")


@dataclass(frozen=True, slots=True)
class PoolSays:
    """`keys` is where. Endpoints and the fallback are said of one pool, the rest also of all by [defaults]."""

    keys: Keys
    endpoints: Mapping[Endpoint, int] | None = None
    fallback: str | None = None
    fallback_endpoints: Mapping[Endpoint, int] | None = None
    policy: PolicyName | None = None
    health_check: HealthCheck | None = None
    max_in_flight: int | None = None
    max_queued: int | None = None
    retry_budget_percent: int | None = None
    tls: BackendTls | None = None
    plaintext: bool = False  # tls = false, which overrides a default


@dataclass(frozen=True, slots=True)
class ShareSays:
    """A canary or a shadow: a pool's name or endpoints, and its percent."""

    keys: Keys
    percent: float
    pool: str | None = None
    endpoints: Mapping[Endpoint, int] | None = None


@dataclass(frozen=True, slots=True)
class TaskSays:
    """`pool` is a pool's name; `own` is what is said of a pool that belongs to the task alone."""

    keys: Keys
    own: PoolSays
    pool: str | None = None
    timeout_ms: int | None = None
    retries: int | None = None
    max_qps: int | None = None
    burst: int | None = None
    canary: ShareSays | None = None
    shadow: ShareSays | None = None
    clients: frozenset[str] | None = None
    jwt: str | None = None


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A whole `gateway.toml`. `nodes` is absolute. Of one that is not `readable` nothing but errors is known."""

    errors: Errors
    readable: bool = True
    nodes: Path | None = None
    defaults: TaskSays = field(default_factory=lambda: TaskSays((), PoolSays(())))
    pools: Mapping[str, PoolSays] = field(default_factory=dict)
    tasks: Mapping[int, TaskSays] = field(default_factory=dict)
    edge: Edge = field(default_factory=Edge)


def read(data: bytes, path: Path) -> ConfigFile:
    """Reads a whole file (UTF-8, a byte order mark is ignored); `errors` has everything that is wrong in itself."""
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return _unreadable(path, ConfigError(path, line, "line", "is not UTF-8 text", "UTF-8 text"))
    try:
        values = tomllib.loads(text)
        errors = Errors(path, Lines(text))
    except RecursionError:
        return _unreadable(
            path, ConfigError(path, 0, "file", "is nested too deeply", "tables in tables, not more")
        )
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        return _unreadable(path, _syntax(path, text, str(error)))
    return _document(Section(values, (), errors))


def _unreadable(path: Path, error: ConfigError) -> ConfigFile:
    errors = Errors(path, Lines(""))
    errors.found.append(error)
    return ConfigFile(errors, readable=False)


_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_SYNTAX_HINTS = (
    ("Invalid value", 'text goes in quotes: policy = "round_robin"'),
    ("Cannot declare", "a table may be opened once: put all of its keys under one header"),
    ("Cannot overwrite", "each key may be there once"),
    ("Expected '='", "a line is key = value or [table]"),
    ("Expected newline", "one key = value a line"),
    ("Unclosed array", "close the list with ]"),
    ("Unterminated string", "close the text with a quote"),
)


def _syntax(path: Path, text: str, message: str) -> ConfigError:
    place = _PLACE.search(message)
    line = 0
    if place is not None:
        line = int(place[1]) if place[1] else text.rstrip().count("\n") + 1
        message = message[: place.start()]
    hint = next((hint for start, hint in _SYNTAX_HINTS if message.startswith(start)), "")
    return ConfigError(path, line, "line", f"is not TOML: {message}"[:200], "TOML, see https://toml.io", hint)


def _document(top: Section) -> ConfigFile:
    errors = top.errors
    nodes = top.text("nodes", "the path of a node file")
    defaults = top.section("defaults")
    pools: dict[str, PoolSays] = {}
    for name, section in top.sections("pools"):
        if not _POOL_NAME.fullmatch(name) or _RESERVED_NAME.fullmatch(name):
            expected = (
                "1 to 63 letters, digits, '-' and '_'; not task-..., dl-..., control-plane, own-services or"
                " otel-collector"
            )
            errors.add(section.keys, f"{name!r} is not a pool's name", expected)
        pools[name] = _pool(section)
        if not section.says("endpoints"):
            errors.add(section.keys, "has no endpoints", 'endpoints = ["host:port"]')
        section.finish()
    tasks: dict[int, TaskSays] = {}
    for name, section in top.sections("tasks"):
        task_id = _task_id(name, section)
        tasks[task_id] = _task(section)
        section.finish()
    edge = read_edge(top)
    top.finish()
    return ConfigFile(
        errors,
        nodes=None if nodes is None else absolute(nodes, errors.path),
        defaults=TaskSays((), PoolSays(())) if defaults is None else _defaults(defaults),
        pools=pools,
        tasks=tasks,
        edge=edge,
    )


def _task_id(name: str, section: Section) -> int:
    """The id; one that is none is reported, and gets a negative stand-in that no other task has."""
    digits = name.isascii() and name.isdigit() and len(name) <= 10
    if digits and 1 <= int(name) <= MAX_TASK_ID and not name.startswith("0"):
        return int(name)
    tail = name.rpartition("-")[2].lstrip("0")
    hint = f"write [tasks.{tail}]" if tail.isascii() and tail.isdigit() and len(tail) <= 10 else ""
    section.errors.add(
        section.keys, f"{name[:60]!r} is not a task id", f"a whole number from 1 to {MAX_TASK_ID}", hint
    )
    return -1 - section.errors.lines.of(section.keys)


def _defaults(section: Section) -> TaskSays:
    for key in ("endpoints", "pool", "fallback", "canary", "shadow"):
        if section.says(key):
            section.take(key)
            section.errors.add((*section.keys, key), "cannot be a default", "it in a task or pool of its own")
    says = _settings(section, _pool_settings(section))
    section.finish()
    return says


def _task(section: Section) -> TaskSays:
    own = _pool(section)
    says = _settings(section, own)
    pool = section.text("pool", "the name of a pool")
    if section.says("pool"):
        for key in ("endpoints", "fallback", *POOL_KEYS):
            if section.says(key):
                section.errors.add(
                    (*section.keys, key),
                    "stands beside pool",
                    "either pool, or what a pool has",
                    f"move it to [pools.{pool or 'NAME'}], or name no pool here",
                )
    return TaskSays(
        section.keys,
        own,
        pool,
        says.timeout_ms,
        says.retries,
        says.max_qps,
        says.burst,
        _share(section, "canary"),
        _share(section, "shadow"),
        says.clients,
        says.jwt,
    )


def _settings(section: Section, own: PoolSays) -> TaskSays:
    clients: frozenset[str] | None = None
    if section.take("clients") is False:
        clients = NO_CLIENTS
    elif (
        names := section.texts(
            "clients", f'a list of names, ["{ANY_CLIENT}"] for all that have a key, or false'
        )
    ) is not None:
        clients = frozenset(names)
        if not clients or (ANY_CLIENT in clients and len(clients) > 1):
            section.wrong("clients", f'names, or "{ANY_CLIENT}" alone for all that have a key')
    jwt: str | None = NO_JWT
    if section.take("jwt") is not False:
        jwt = section.text("jwt", "the name of an [auth.jwt.NAME], or false")
    return TaskSays(
        section.keys,
        own,
        timeout_ms=section.whole("timeout_ms", 1, MAX_TIMEOUT_MS, "milliseconds"),
        retries=section.whole("retries", 0, MAX_RETRIES, "retries"),
        max_qps=section.whole("max_qps", 1, MAX_QPS, "calls a second"),
        burst=section.whole("burst", 1, MAX_QPS, "calls"),
        clients=clients,
        jwt=jwt,
    )


def _share(outer: Section, key: str) -> ShareSays | None:
    expected = "{ pool = NAME, percent = 5 } or { endpoints = [...], percent = 5 }"
    section = outer.section(key, expected)
    if section is None:
        return None
    endpoints = section.endpoints("endpoints", DEFAULT_WEIGHT, MAX_WEIGHT)
    pool = section.text("pool", "the name of a pool")
    percent = section.percent("percent")
    if section.says("pool") == section.says("endpoints"):
        problem = "has both pool and endpoints" if section.says("pool") else "has no pool"
        section.errors.add(section.keys, problem, expected)
    if not section.says("percent"):
        section.errors.add(section.keys, "has no percent", expected)
    section.finish()
    if pool is None and endpoints is None:
        return None
    return ShareSays(section.keys, percent or 0.0, pool, endpoints)


def _pool(section: Section) -> PoolSays:
    settings = _pool_settings(section)
    fallback, instead = None, None
    if isinstance(section.take("fallback"), list):
        instead = section.endpoints("fallback", DEFAULT_WEIGHT, MAX_WEIGHT)
    else:
        fallback = section.text("fallback", "the name of a pool, or a list of endpoints")
    return PoolSays(
        section.keys,
        section.endpoints("endpoints", DEFAULT_WEIGHT, MAX_WEIGHT),
        fallback,
        instead,
        settings.policy,
        settings.health_check,
        settings.max_in_flight,
        settings.max_queued,
        settings.retry_budget_percent,
        settings.tls,
        settings.plaintext,
    )


def _pool_settings(section: Section) -> PoolSays:
    tls, plaintext = _tls(section)
    return PoolSays(
        section.keys,
        policy=section.choice("policy", PolicyName),
        health_check=section.choice("health_check", HealthCheck),
        max_in_flight=section.whole("max_in_flight", 1, MAX_CALLS, "calls"),
        max_queued=section.whole("max_queued", 1, MAX_CALLS, "calls"),
        retry_budget_percent=section.whole("retry_budget_percent", 0, 100, "percent"),
        tls=tls,
        plaintext=plaintext,
    )


def _tls(outer: Section) -> tuple[BackendTls | None, bool]:
    value = outer.take("tls")
    if isinstance(value, bool):
        return (BackendTls(), False) if value else (None, True)
    section = outer.section("tls", 'true, false, or { ca = "ca.pem" }')
    if section is None:
        return None, False
    found = BackendTls(
        ca=section.file("ca"),
        cert=section.file("cert"),
        key=section.file("key"),
        server_name=section.text("server_name", "the name in the instances' certificate") or "",
    )
    if section.says("cert") != section.says("key"):
        section.errors.add(section.keys, "has only one of cert and key", "both, or none")
    section.finish()
    return found, False
