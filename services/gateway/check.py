"""`gateway check`: is a configuration one that the gateway would take, and if not, everything that is wrong."""

from __future__ import annotations

import sys

from services.gateway.configuration import Sources, load
from services.gateway.configuration_errors import ConfigInvalid


def check(sources: Sources) -> int:
    """Prints the verdict; the exit status: 0, or 2 with every error on standard error."""
    try:
        table = load(sources).table
    except ConfigInvalid as invalid:
        for error in invalid.errors:
            print(error.render(), file=sys.stderr)
        return 2
    instances = sum(len(pool.members) for pool in table.pools.values())
    print(f"{sources.main}: {len(table.tasks)} tasks, {instances} instances, no errors")
    return 0
