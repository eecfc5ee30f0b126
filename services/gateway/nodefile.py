"""The node file as a table, and its errors as the gateway reports errors. libs.balancing.nodefile has the format."""

from __future__ import annotations

from pathlib import Path

from libs.balancing import nodefile
from libs.balancing.nodefile import DEFAULT_TIMEOUT_MS, NodeLine
from services.gateway.configuration_errors import ConfigError, ConfigInvalid
from services.gateway.table import DEFAULT_WEIGHT, Place, Pool, Table, Task, pool_name


def parse(data: bytes, path: Path = Path("nodefile")) -> Table:
    """The table of a node file alone. Raises ConfigInvalid with every error found; `path` is what they name."""
    lines, errors = read(data, path)
    if errors:
        raise ConfigInvalid(errors, [path])
    tasks: dict[int, Task] = {}
    pools: dict[str, Pool] = {}
    for line in lines:
        places = (Place(path, line.line),)
        pool = Pool(pool_name(line.task_id), dict.fromkeys(line.endpoints, DEFAULT_WEIGHT), places=places)
        timeout_ms = DEFAULT_TIMEOUT_MS if line.timeout_ms is None else line.timeout_ms
        tasks[line.task_id] = Task(line.task_id, timeout_ms, pool.name, places=places)
        pools[pool.name] = pool
    return Table(tasks, pools)


def read(data: bytes, path: Path) -> tuple[list[NodeLine], list[ConfigError]]:
    """The tasks of a whole node file, each once, and what is wrong with it."""
    lines, problems = nodefile.read(data)
    return lines, [
        ConfigError(path, one.line, one.field, one.problem, one.expected, one.hint) for one in problems
    ]
