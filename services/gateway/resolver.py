"""Host names of the node file, kept resolved: one name may stand for many instances, and they change."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping

log = logging.getLogger(__name__)

# Headless services change within seconds; resolvers on the host cache.
INTERVAL_S = 5.0
LOOKUP_TIMEOUT_S = 3.0
_PARALLEL = 16  # look-ups at once: a thousand names must not open a thousand threads

Lookup = Callable[[str], Awaitable[Iterable[str]]]


async def system_lookup(name: str) -> Iterable[str]:
    """All addresses of a name by the system's resolver. Raises OSError when it has none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return {str(info[4][0]) for info in found}


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

    async def use(self, names: frozenset[str]) -> None:
        """Makes the names exactly these; returns when each new one was looked up, well or not."""
        self._names = names
        await asyncio.gather(*(self._refresh(name) for name in sorted(names - self._addresses.keys())))
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
