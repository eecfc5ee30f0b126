from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.gateway import watch
from services.gateway.watch import changes


@contextlib.asynccontextmanager
async def watching(path: Path) -> AsyncIterator[asyncio.Queue[bytes]]:
    """The file's contents as they change."""
    found: asyncio.Queue[bytes] = asyncio.Queue()
    known: dict[Path, bytes | None] = {path: path.read_bytes()}

    async def follow() -> None:
        async for contents in changes(lambda: known):
            known.update(contents)
            found.put_nowait(contents[path] or b"")

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.3)  # the watch is set up on a thread, and nothing tells when
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def next_of(found: asyncio.Queue[bytes]) -> bytes:
    async with asyncio.timeout(10):
        return await found.get()


async def test_a_file_written_in_place_and_one_put_there_by_a_rename(tmp_path: Path) -> None:
    path = tmp_path / "nodes.txt"
    path.write_bytes(b"1")
    async with watching(path) as found:
        path.write_bytes(b"2")
        assert await next_of(found) == b"2"
        (tmp_path / "new").write_bytes(b"3")
        (tmp_path / "new").rename(path)
        assert await next_of(found) == b"3"
        path.unlink()
        await asyncio.sleep(0.2)
        path.write_bytes(b"4")
        assert await next_of(found) == b"4"


async def test_a_configmap_swaps_a_link_beside_the_file(tmp_path: Path) -> None:
    for name, data in (("one", b"1"), ("two", b"2"), ("three", b"3")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nodes.txt").write_bytes(data)
    (tmp_path / "..data").symlink_to("one")
    path = tmp_path / "nodes.txt"
    path.symlink_to("..data/nodes.txt")
    async with watching(path) as found:
        for name, data in (("two", b"2"), ("three", b"3")):
            (tmp_path / "..tmp").symlink_to(name)
            (tmp_path / "..tmp").rename(tmp_path / "..data")
            assert await next_of(found) == data


async def test_other_files_and_equal_content_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "nodes.txt"
    path.write_bytes(b"1")
    async with watching(path) as found:
        (tmp_path / "other").write_bytes(b"x")
        path.write_bytes(b"1")
        await asyncio.sleep(0.5)
        assert found.empty()


async def test_a_file_written_in_pieces_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "nodes.txt"
    path.write_bytes(b"1")
    async with watching(path) as found:
        with path.open("wb") as file:
            for _ in range(10):
                file.write(b"piece ")
                file.flush()
                await asyncio.sleep(0.02)
        assert await next_of(found) == b"piece " * 10


async def test_a_folder_that_is_replaced_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RETRY_S", 0.1)
    folder = tmp_path / "config"
    folder.mkdir()
    path = folder / "nodes.txt"
    path.write_bytes(b"1")
    async with watching(path) as found:
        shutil.rmtree(folder)
        await asyncio.sleep(0.3)
        folder.mkdir()
        path.write_bytes(b"2")
        assert await next_of(found) == b"2"
        path.write_bytes(b"3")
        assert await next_of(found) == b"3"


async def test_a_folder_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "RETRY_S", 0.1)
    path = tmp_path / "later" / "nodes.txt"
    found = changes(lambda: {path: None})
    first = asyncio.ensure_future(anext(found))
    await asyncio.sleep(0.3)
    path.parent.mkdir()
    path.write_bytes(b"1")
    async with asyncio.timeout(10):
        assert await first == {path: b"1"}
    await found.aclose()


async def test_files_that_are_named_later_are_followed_wherever_they_are(tmp_path: Path) -> None:
    main, key = tmp_path / "gateway.toml", tmp_path / "elsewhere" / "key.pem"
    key.parent.mkdir()
    main.write_bytes(b"1")
    key.write_bytes(b"k1")
    known: dict[Path, bytes | None] = {main: b"1"}
    found = changes(lambda: known)
    try:
        async with asyncio.timeout(20):
            first = asyncio.ensure_future(anext(found))
            await asyncio.sleep(0.3)
            main.write_bytes(b"2")
            assert await first == {main: b"2"}
            known = {main: b"2", key: b"k1"}
            second = asyncio.ensure_future(anext(found))
            await asyncio.sleep(0.3)
            key.write_bytes(b"k2")
            assert await second == {main: b"2", key: b"k2"}
    finally:
        await found.aclose()
