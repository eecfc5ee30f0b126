"""Health: states, the gRPC service against the official-shaped messages, the probes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.serving.call import Call, HttpRequest
from libs.serving.errors import InvalidArgument, NotFound, ServingError
from libs.serving.health import NOT_SERVING, SERVING, Health

CHECK = "/grpc.health.v1.Health/Check"


async def _check(health: Health, request: bytes) -> bytes:
    return await health.handlers()[CHECK](Call(CHECK, {}), request)


async def test_a_server_is_not_serving_until_told() -> None:
    health = Health()
    assert await _check(health, b"") == b"\x08\x02"
    assert not health.managed
    health.set_status("", SERVING)
    assert await _check(health, b"") == b"\x08\x01"
    assert health.managed


async def test_services_have_their_own_status() -> None:
    health = Health()
    health.set_status("", SERVING)
    health.set_status("seldon.protos.Model", NOT_SERVING)
    assert await _check(health, b"\x0a\x13seldon.protos.Model") == b"\x08\x02"
    with pytest.raises(NotFound, match="'other'"):
        await _check(health, b"\x0a\x05other")


async def test_draining_is_for_good() -> None:
    health = Health()
    heard: list[bool] = []
    health.listen(heard.append)
    health.set_status("", SERVING)
    health.set_status("", SERVING)
    health.set_status("a", SERVING)
    health.drain()
    health.set_status("", SERVING)
    health.drain()
    assert heard == [True, False]
    assert health.draining
    assert await _check(health, b"") == b"\x08\x02"
    assert await _check(health, b"\x0a\x01a") == b"\x08\x02"


async def test_probes() -> None:
    health = Health()
    http = health.http()
    live, ready = http[("GET", "/health/live")], http[("GET", "/health/ready")]
    request = HttpRequest("GET", "/")
    assert (await live(request)).status == 200
    assert (await ready(request)).status == 503
    health.set_status("", SERVING)
    assert (await ready(request)).status == 200
    health.drain()
    response = await ready(request)
    assert (response.status, response.body) == (503, b"draining\n")
    assert (await live(request)).status == 200


async def _requests(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def test_watch_tells_each_change() -> None:
    health = Health()
    watch = health.streams()["/grpc.health.v1.Health/Watch"](Call("", {}), _requests(b"\x0a\x01a"))
    assert await anext(watch) == b"\x08\x03", "it may yet come to be known"
    health.set_status("a", SERVING)
    health.set_status("b", SERVING)
    assert await anext(watch) == b"\x08\x01"
    waiting = asyncio.ensure_future(anext(watch))
    health.set_status("b", NOT_SERVING)
    await asyncio.sleep(0.01)
    assert not waiting.done(), "another service's change"
    health.drain()
    assert await asyncio.wait_for(waiting, 10) == b"\x08\x02"
    await watch.aclose()


async def test_watch_repeats_itself_before_a_silent_stream_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.serving.health._REPEAT_S", 0.01)
    watch = Health().streams()["/grpc.health.v1.Health/Watch"](Call("", {}), _requests(b""))
    assert [await asyncio.wait_for(anext(watch), 10) for _ in range(3)] == [b"\x08\x02"] * 3
    await watch.aclose()


@pytest.mark.parametrize("messages", [(), (b"", b""), (b"\x0a\x09short",)])
async def test_watch_takes_one_request(messages: tuple[bytes, ...]) -> None:
    with pytest.raises(InvalidArgument):
        await anext(Health().streams()["/grpc.health.v1.Health/Watch"](Call("", {}), _requests(*messages)))


async def test_unknown_fields_are_skipped_and_the_last_name_wins() -> None:
    health = Health()
    health.set_status("b", SERVING)
    request = b"\x10\x96\x01" + b"\x0a\x01a" + b"\x1a\x02xy" + b"\x25abcd" + b"\x29abcdefgh" + b"\x0a\x01b"
    assert await _check(health, request) == b"\x08\x01"


@pytest.mark.parametrize("request_", [b"\x0a", b"\x0a\x05ab", b"\x0b", b"\x80" * 11, b"\x0a\x02\xff\xfe"])
async def test_malformed_requests(request_: bytes) -> None:
    with pytest.raises(InvalidArgument, match="HealthCheckRequest"):
        await _check(Health(), request_)


@given(st.binary(max_size=30))
async def test_any_bytes_give_an_answer_or_a_serving_error(request_: bytes) -> None:
    try:
        assert await _check(Health(), request_) == b"\x08\x02"
    except ServingError as error:
        assert error.message
