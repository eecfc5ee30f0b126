from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from libs.serving.call import Call
from libs.serving.errors import InvalidArgument
from libs.serving.protowire import block, fields, number
from libs.serving.reflection import SERVICES, Reflection


class Files:
    """Two files; the second imports the first."""

    def file(self, name: str) -> Sequence[bytes] | None:
        return {"a.proto": [b"A"], "b.proto": [b"B", b"A"]}.get(name)

    def file_containing(self, symbol: str) -> Sequence[bytes] | None:
        return [b"B", b"A"] if symbol == "b.Service" else None


async def ask(*requests: bytes) -> list[dict[int, bytes]]:
    async def stream() -> AsyncIterator[bytes]:
        for request in requests:
            yield request

    info = Reflection(Files(), ["b.Service", "a.Service"]).streams()[f"/{SERVICES[0]}/ServerReflectionInfo"]
    return [dict(fields(answer)) async for answer in info(Call("", {}), stream())]


async def test_services_by_name() -> None:
    (answer,) = await ask(block(1, b"host") + block(7, b"*"))
    names = [dict(fields(item))[1].decode() for _, item in fields(answer[6])]
    assert names == sorted(["a.Service", "b.Service", *SERVICES])
    assert answer[1] == b"host" and answer[2] == block(1, b"host") + block(7, b"*")


async def test_files_come_with_what_they_import() -> None:
    by_name, by_symbol = await ask(block(3, b"a.proto"), block(4, b"b.Service"))
    assert list(fields(by_name[4])) == [(1, b"A")]
    assert list(fields(by_symbol[4])) == [(1, b"B"), (1, b"A")]


async def test_no_extensions() -> None:
    known, unknown, which = await ask(
        block(6, b"b.Service"), block(6, b"x"), block(5, block(1, b"b.Service") + number(2, 7))
    )
    assert list(fields(known[5])) == [(1, b"b.Service")]
    for answer in (unknown, which):
        assert answer[7].startswith(number(1, 5))


@pytest.mark.parametrize(
    ("request_bytes", "code"), [(block(3, b"nope.proto"), 5), (block(4, b"nope"), 5), (b"", 3)]
)
async def test_what_is_not_there_is_an_answer_not_an_end(request_bytes: bytes, code: int) -> None:
    answer, after = await ask(request_bytes, block(7, b""))
    assert answer[7].startswith(number(1, code)) and 6 in after


async def test_a_malformed_request_ends_the_stream() -> None:
    for request in (b"\x3a\x05x", block(3, b"\xff")):
        with pytest.raises(InvalidArgument):
            await ask(request)
