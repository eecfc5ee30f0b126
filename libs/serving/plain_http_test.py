"""Plain HTTP against a scripted ASGI server."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from libs.serving.call import HttpRequest, HttpResponse, Route
from libs.serving.errors import ServingError, Unavailable
from libs.serving.plain_http import PlainHttp

LIMIT = 1000


def fail(status: int, error: ServingError) -> HttpResponse:
    return HttpResponse(status, json.dumps({"error": error.message}).encode(), "application/json")


async def tell(request: HttpRequest) -> HttpResponse:
    call = request.call()
    told = {
        "params": dict(request.params),
        "body": request.body.decode(),
        "query": request.query,
        "seconds": None if call.deadline is None else round(call.deadline, 6),
        "gone": call.cancelled(),
    }
    return HttpResponse(200, json.dumps(told).encode(), "application/json", {"X-More": "1"})


async def refuse(request: HttpRequest) -> HttpResponse:
    raise Unavailable("not now") if not request.query else KeyError("a secret")


async def sleep(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(float(request.query))
    return HttpResponse()


async def stubborn(request: HttpRequest) -> HttpResponse:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(0)
    return HttpResponse()


ROUTES = [
    Route("GET", "/m/{name}", tell, fail),
    Route("POST", "/m/{name}", tell, fail),
    Route("GET", "/fail", refuse, fail),
    Route("GET", "/sleep", sleep, fail),
    Route("GET", "/stubborn", stubborn, fail),
]


class Asked:
    """One request and its answer."""

    def __init__(self, *chunks: bytes, gone_after: Any = None, **headers: str) -> None:
        self._chunks = list(chunks) or [b""]
        self._gone_after = gone_after
        self._headers = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        self.sent: list[dict[str, Any]] = []

    async def __call__(self, method: str, path: str, query: str = "", **options: Any) -> tuple[int, Any]:
        app = PlainHttp(ROUTES, ["/grpc.Only/Method"], LIMIT, **options)
        scope = {
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": self._headers,
        }
        self._until = asyncio.get_running_loop().time() + (self._gone_after or 3600)
        await asyncio.wait_for(app(scope, self._receive, self._send), 10)
        if not self.sent:
            return 0, None
        status, body = self.sent[0]["status"], self.sent[1]["body"]
        self.fields = {k.decode(): v.decode() for k, v in self.sent[0]["headers"]}
        return status, json.loads(body) if body.startswith(b"{") else body.decode()

    async def _receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self._chunks:
            chunk = self._chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}
        if asyncio.get_running_loop().time() >= self._until:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, event: Any) -> None:
        self.sent.append(event)


async def test_a_request_and_its_answer() -> None:
    asked = Asked(b"ab", b"c", x_request_timeout_ms="2500")
    status, told = await asked("POST", "/m/x", "q=1", clock=lambda: 100.0)
    assert (status, asked.fields["x-more"]) == (200, "1")
    assert told == {"params": {"name": "x"}, "body": "abc", "query": "q=1", "seconds": 102.5, "gone": False}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 60),
        ({"grpc_timeout": "3S"}, 3),
        ({"grpc_timeout": "3S", "x_request_timeout_ms": "20"}, 0.02),
        ({"grpc_timeout": "2H"}, 60),
    ],
)
async def test_the_shortest_time_counts(headers: dict[str, str], seconds: float) -> None:
    assert (await Asked(**headers)("GET", "/m/x", clock=lambda: 0.0))[1]["seconds"] == seconds


@pytest.mark.parametrize("headers", [{"grpc_timeout": "3"}, {"x_request_timeout_ms": "-1"}])
async def test_times_that_cannot_be_read(headers: dict[str, str]) -> None:
    status, told = await Asked(**headers)("GET", "/m/x")
    assert status == 400 and "expected" in told["error"]


@pytest.mark.parametrize("path", ["/sleep", "/stubborn"])
async def test_time_that_is_up(path: str) -> None:
    status, told = await Asked(x_request_timeout_ms="30")("GET", path, "50")
    assert (status, told) == (504, {"error": "the time was up before the answer was ready"})


async def test_the_default_bound() -> None:
    assert (await Asked()("GET", "/sleep", "50", timeout_s=0.03))[0] == 504


async def test_a_caller_who_leaves_gets_nothing_and_costs_nothing() -> None:
    assert await Asked(gone_after=0.02)("GET", "/sleep", "50") == (0, None)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", gzip.compress(b"hello")), ("deflate", zlib.compress(b"hello")), ("identity", b"hello")],
)
async def test_bodies_are_decompressed(encoding: str, body: bytes) -> None:
    assert (await Asked(body, content_encoding=encoding)("POST", "/m/x"))[1]["body"] == "hello"


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"x", 415),
        ("gzip", b"x", 400),
        ("gzip", gzip.compress(b"x" * 5000), 413),
        ("identity", b"x" * (LIMIT + 1), 413),
    ],
)
async def test_bodies_that_are_refused(encoding: str, body: bytes, status: int) -> None:
    asked = Asked(body[:10], body[10:], content_encoding=encoding)
    got, told = await asked("POST", "/m/x")
    assert got == status and told["error"] and asked.fields["content-type"] == "application/json"


async def test_errors_have_the_routes_own_form() -> None:
    assert await Asked()("GET", "/fail") == (503, {"error": "not now"})
    status, told = await Asked()("GET", "/fail", "defect")
    assert status == 500 and "secret" not in told["error"]
    asked = Asked()
    assert await asked("DELETE", "/m/x") == (405, {"error": "expected GET, POST"})
    assert asked.fields["allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/m", 404), ("POST", "/grpc.Only/Method", 415), ("GET", "/grpc.Only/Method", 405)],
)
async def test_what_nothing_serves(method: str, path: str, status: int) -> None:
    assert (await Asked()(method, path))[0] == status
