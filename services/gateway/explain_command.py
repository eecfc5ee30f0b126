"""`gateway explain`: reads the files, looks the names up, asks a running gateway, prints."""

from __future__ import annotations

import asyncio
import json
import sys

from services.gateway.check import load_or_print
from services.gateway.configuration import Sources
from services.gateway.explain import NoAnswerError, Question, explain
from services.gateway.explain_text import text
from services.gateway.resolver import system_lookup
from services.gateway.status_command import fetch
from services.gateway.table import Table

_LOOKUP_TIMEOUT_S = 3.0


def run(sources: Sources, question: Question, *, admin: str | None = None, as_json: bool = False) -> int:
    """The exit status: 0; 1 where the call would be refused; 2 where the question cannot be answered."""
    loaded = load_or_print(sources)
    if loaded is None:
        return 2
    live = None
    if admin is not None:
        try:
            live = fetch(admin)
        except OSError as error:
            reason = getattr(error, "reason", error)
            print(
                f"gateway: {admin}: {reason}; give the address of --admin, like 127.0.0.1:9901",
                file=sys.stderr,
            )
            return 2
    try:
        found = explain(loaded.table, question, asyncio.run(addresses(loaded.table)), live)
    except NoAnswerError as refused:
        if as_json:
            print(json.dumps({"refused": str(refused), "hint": refused.hint}, indent=1))
        else:
            print(f"refused: {refused}" + (f"; hint: {refused.hint}" if refused.hint else ""))
        return 1
    print(json.dumps(found, indent=1) if as_json else text(found))
    return 0


async def addresses(table: Table) -> dict[str, tuple[str, ...]]:
    """The addresses of every name of the pools, sorted; none for a name that does not resolve in time."""

    async def look_up(name: str) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT_S):
                return tuple(sorted(await system_lookup(name)))
        except OSError:  # also a timeout
            return ()

    names = sorted(table.names())
    return dict(zip(names, await asyncio.gather(*map(look_up, names)), strict=True))
