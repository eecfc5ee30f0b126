"""When the certificates that a configuration names expire."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from services.gateway.status import Certificate
from services.gateway.table import Table
from services.gateway.tls_files import certificates


def expiries(table: Table, files: Mapping[Path, bytes]) -> tuple[Certificate, ...]:
    """The earliest end of the certificates in each file, by path. A file that cannot be read has none."""
    named = set()
    if table.edge.tls is not None:
        named |= {table.edge.tls.cert, table.edge.tls.client_ca}
    for pool in table.pools.values():
        if pool.tls is not None:
            named |= {pool.tls.ca, pool.tls.cert}
    found = []
    for path in sorted(path for path in named if path is not None):
        try:
            ends = [certificate.not_after for certificate in certificates(files.get(path, b""))]
        except ValueError:
            continue
        if ends:
            found.append(Certificate(str(path), min(ends)))
    return tuple(found)
