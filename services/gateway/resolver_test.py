from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from services.gateway.resolver import Resolver, system_lookup


class Names:
    """A name service in a dictionary. A name that is missing does not resolve."""

    def __init__(self, **names: list[str]) -> None:
        self.names = names
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Iterable[str]:
        self.asked.append(name)
        await asyncio.sleep(0)
        if name not in self.names:
            raise OSError("no such name")
        return self.names[name]


async def test_names_resolve_to_sorted_addresses_and_only_new_ones_are_asked() -> None:
    names = Names(a=["10.0.0.10", "10.0.0.9", "fd00::1"], b=["10.0.0.3"])
    resolver = Resolver(lambda: None, names)
    await resolver.use(frozenset({"a"}))
    assert resolver.addresses == {"a": ("10.0.0.9", "10.0.0.10", "fd00::1")}
    await resolver.use(frozenset({"a", "b"}))
    assert names.asked == ["a", "b"]
    await resolver.use(frozenset({"b"}))
    assert resolver.addresses == {"b": ("10.0.0.3",)}


async def test_a_name_that_stops_resolving_keeps_its_addresses() -> None:
    names = Names(a=["10.0.0.1"])
    changes = []
    resolver = Resolver(lambda: changes.append(dict(resolver.addresses)), names)
    await resolver.use(frozenset({"a", "gone"}))
    assert resolver.errors == {"gone": "no such name"}
    runner = asyncio.create_task(resolver.run(0.01))
    try:
        del names.names["a"]
        await asyncio.sleep(0.05)
        assert resolver.addresses == {"a": ("10.0.0.1",)}
        assert resolver.errors.keys() == {"a", "gone"}
        assert changes == []
        names.names.update(a=["10.0.0.2"], gone=["10.0.0.5"])
        async with asyncio.timeout(5):
            while resolver.addresses != {"a": ("10.0.0.2",), "gone": ("10.0.0.5",)}:
                await asyncio.sleep(0.01)
        assert changes[-1] == {"a": ("10.0.0.2",), "gone": ("10.0.0.5",)}
        assert resolver.errors == {}
    finally:
        runner.cancel()


async def test_the_same_answer_in_another_order_is_no_change() -> None:
    names = Names(a=["10.0.0.1", "10.0.0.2"])
    changes: list[int] = []
    resolver = Resolver(lambda: changes.append(1), names)
    await resolver.use(frozenset({"a"}))
    names.names["a"].reverse()
    runner = asyncio.create_task(resolver.run(0.01))
    await asyncio.sleep(0.05)
    runner.cancel()
    assert len(names.asked) > 1
    assert changes == []


async def test_a_name_service_that_hangs_does_not_hold_up_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.resolver.USE_TIMEOUT_S", 0.1)

    async def hang(name: str) -> Iterable[str]:
        await asyncio.sleep(60)
        return []

    resolver = Resolver(lambda: None, hang)
    async with asyncio.timeout(2):
        await resolver.use(frozenset({"a", "b"}))
    assert resolver.addresses == {}


async def test_the_system_resolves_localhost_to_one_kind_of_address() -> None:
    assert set(await system_lookup("localhost")) in ({"127.0.0.1"}, {"::1"})
    with pytest.raises(OSError, match="."):
        await system_lookup("no-such-host.invalid")
