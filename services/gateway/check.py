"""`gateway check`: is a configuration one that the gateway would take, and if not, everything that is wrong."""

from __future__ import annotations

import sys
import time

from services.gateway.configuration import Loaded, Sources, load
from services.gateway.configuration_errors import ConfigInvalid
from services.gateway.listener_files import log_problem, mode_warnings, warnings
from services.gateway.table import Table


def check(sources: Sources) -> int:
    """Prints the verdict; the exit status: 0, or 2 with every error on standard error."""
    loaded = load_or_print(sources)
    if loaded is None:
        return 2
    table = loaded.table
    told = [*unused(table), *warnings(table.edge, table.pools.values(), loaded.files, time.time())]
    for line in (*told, *mode_warnings(table.edge, table.pools.values())):
        print(f"note: {line}")
    instances = len({(pool.name, e) for pool in table.pools.values() for e in pool.members})
    files = ", ".join(str(path) for path in (sources.config, sources.nodes) if path is not None)
    print(f"{files}: {len(table.tasks)} tasks, {len(table.pools)} pools, {instances} instances, no errors")
    return 0


def load_or_print(sources: Sources) -> Loaded | None:
    """The configuration; None after every error was printed on standard error."""
    try:
        return load(sources, log_problem=log_problem)
    except ConfigInvalid as invalid:
        for error in invalid.errors:
            print(error.render(), file=sys.stderr)
        return None


def unused(table: Table) -> list[str]:
    """The pools that no call can reach, a line each."""
    reached = {
        pool.name for task in table.tasks.values() for name in task.pools() for pool in table.chain(name)
    }
    return [f"pool {name}: no task goes there" for name in table.pools if name not in reached]
