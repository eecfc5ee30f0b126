"""Host names of the node file, kept resolved: one name may stand for many instances, and they change."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

# Headless services change within seconds; resolvers on the host cache.
INTERVAL_S = 5.0
LOOKUP_TIMEOUT_S = 3.0
USE_TIMEOUT_S = 5.0
_PARALLEL = 16  # look-ups at once: a thousand names must not open a thousand threads

Lookup = Callable[[str], Awaitable[Iterable[str]]]


async def system_lookup(name: str) -> Iterable[str]:
    """The addresses of a name by the system's resolver: the IPv4 ones if there are any, since a host with both
    kinds would otherwise count as two instances. Raises OSError when there is none.

    On a daemon thread of its own: the resolver cannot be interrupted, and one that hangs must hold up neither
    the other names nor the end of the process, as a pool's threads would.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Any]] = loop.create_future()

    def settle(found: list[Any] | OSError) -> None:
        if not answer.done():  # given up on otherwise
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

    def look_up() -> None:
        found: list[Any] | OSError
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError as error:
            found = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=look_up, name=f"resolve {name}", daemon=True).start()
    addresses = await answer
    kinds = {
        kind: {str(a[4][0]) for a in addresses if a[0] == kind} for kind in (socket.AF_INET, socket.AF_INET6)
    }
    return kinds[socket.AF_INET] or kinds[socket.AF_INET6]


class Resolver:
    """The addresses of a set of names. A name that fails to resolve keeps its last addresses."""

    def __init__(self, on_change: Callable[[], None], lookup: Lookup = system_lookup) -> None:
        self._on_change = on_change
        self._lookup = lookup
        self._names: frozenset[str] = frozenset()
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._errors: dict[str, str] = {}
        self._slots = asyncio.Semaphore(_PARALLEL)

    @property
    def addresses(self) -> Mapping[str, tuple[str, ...]]:
        return self._addresses

    @property
    def errors(self) -> Mapping[str, str]:
        """Names that the last look-up failed for, and why."""
        return self._errors

    def remember(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """What the names were known to be; `run` looks them up again soon."""
        self._addresses = {name: tuple(found) for name, found in addresses.items()}

    async def use(self, names: frozenset[str]) -> None:
        """Makes the names exactly these; returns when each new one was looked up, well or not.

        Bounded: of names beyond what can be looked up in USE_TIMEOUT_S the rest is left to `run`.
        """
        self._names = names
        fresh = [asyncio.create_task(self._refresh(name)) for name in sorted(names - self._addresses.keys())]
        if fresh:
            _, late = await asyncio.wait(fresh, timeout=USE_TIMEOUT_S)
            for task in late:
                task.cancel()
        self._addresses = {name: found for name, found in self._addresses.items() if name in names}
        self._errors = {name: error for name, error in self._errors.items() if name in names}

    async def run(self, interval_s: float = INTERVAL_S) -> None:
        """Looks every name up again and again, and reports when an answer differs."""
        while True:
            await asyncio.sleep(interval_s)
            changed = await asyncio.gather(*(self._refresh(name) for name in sorted(self._names)))
            if any(changed):
                self._on_change()

    async def _refresh(self, name: str) -> bool:
        try:
            async with self._slots, asyncio.timeout(LOOKUP_TIMEOUT_S):
                found = tuple(sorted(set(await self._lookup(name)), key=_address_order))
        except OSError as error:  # also a timeout
            text = str(error) or f"no answer within {LOOKUP_TIMEOUT_S:g} s"
            if self._errors.get(name) != text:
                kept = self._addresses.get(name)
                log.warning(
                    "cannot resolve %s: %s; %s",
                    name,
                    text,
                    f"keeping {', '.join(kept)}" if kept else "its instances are left out until it resolves",
                )
            self._errors[name] = text
            return False
        self._errors.pop(name, None)
        if self._addresses.get(name) == found:
            return False
        log.info("%s is %s", name, ", ".join(found))
        self._addresses = {**self._addresses, name: found}
        return True


def _address_order(text: str) -> tuple[int, int]:
    address = ipaddress.ip_address(text.partition("%")[0])
    return address.version, int(address)
