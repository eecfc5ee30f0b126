"""The application that the tests of libs/serving run inside pyvoy."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence

from libs.serving import errors
from libs.serving.asgi import GrpcApp
from libs.serving.batcher import Batcher, BatchPolicy
from libs.serving.call import Call, Handler, HttpRequest, HttpResponse
from libs.serving.errors import FailedPrecondition, InvalidArgument, NotFound, ServingError
from libs.serving.metrics import Metrics

CONFIG_VARIABLE = "SERVING_TEST_CONFIG"
_config = json.loads(os.environ.get(CONFIG_VARIABLE, "{}"))
_ran: list[bytes] = []


def _run(items: Sequence[bytes]) -> list[bytes | Exception]:
    """A model that sleeps as long as the first item says: b"<milliseconds> <name>"."""
    _ran.extend(items)
    time.sleep(int(items[0].split()[0]) / 1e3)
    return [item.split()[-1] for item in items]


metrics = Metrics({"model": "test"}, process=False)
_stats = metrics.batcher("test")
_batcher: Batcher[bytes, bytes] = Batcher(
    _run, BatchPolicy(4, 8), size=lambda item: 1, key=lambda item: None, observer=_stats
)
_stats.queued_rows = lambda: float(_batcher.queued_rows)


async def _echo(call: Call, request: bytes) -> bytes:
    return request


async def _fail(call: Call, request: bytes) -> bytes:
    kind = request.decode()
    if cls := getattr(errors, kind, None):
        raise cls(f"{kind}: 100 % wrong, größer als erlaubt\nsecond line")
    if kind == "subclass":
        raise type("Special", (NotFound,), {})("special")
    if kind == "cancelled":
        raise asyncio.CancelledError
    if kind == "bare":
        raise ServingError("bare")
    raise KeyError("a secret of the server")


async def _metadata(call: Call, request: bytes) -> bytes:
    call.response_metadata["x-answer"] = "yes"
    return json.dumps(dict(call.metadata)).encode()


async def _bad_metadata(call: Call, request: bytes) -> bytes:
    call.response_metadata["x-answer"] = "line\nbreak"
    return b""


async def _not_bytes(call: Call, request: bytes) -> bytes:
    return "text"  # type: ignore[return-value]


async def _sleep(call: Call, request: bytes) -> bytes:
    await asyncio.sleep(float(request))
    return b"slept"


async def _stubborn(call: Call, request: bytes) -> bytes:
    """Ignores its cancellation."""
    end = time.monotonic() + float(request)
    while time.monotonic() < end:
        try:
            await asyncio.sleep(end - time.monotonic())
        except asyncio.CancelledError:
            continue
    return b"finished anyway"


async def _model(call: Call, request: bytes) -> bytes:
    return await _batcher.submit(request, deadline=call.deadline, cancelled=call.cancelled)


async def _model_runs(call: Call, request: bytes) -> bytes:
    return b"\n".join(_ran)


async def _deadline(call: Call, request: bytes) -> bytes:
    return b"none" if call.deadline is None else str(call.deadline - time.monotonic()).encode()


HANDLERS: dict[str, Handler] = {
    f"/test.Test/{name}": handler
    for name, handler in {
        "Echo": _echo,
        "Fail": _fail,
        "Metadata": _metadata,
        "BadMetadata": _bad_metadata,
        "NotBytes": _not_bytes,
        "Sleep": _sleep,
        "Stubborn": _stubborn,
        "Model": _model,
        "ModelRuns": _model_runs,
        "Deadline": _deadline,
    }.items()
}


async def _http_echo(request: HttpRequest) -> HttpResponse:
    body = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "body": request.body.decode(),
        "agent": request.headers.get("user-agent"),
    }
    return HttpResponse(200, json.dumps(body).encode(), "application/json", {"x-extra": "1"})


async def _http_fail(request: HttpRequest) -> HttpResponse:
    if request.query == "defect":
        raise KeyError("a secret of the server")
    raise InvalidArgument("this is wrong")


async def _http_held(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, str(app.held).encode())


async def _startup() -> None:
    match _config.get("startup"):
        case "refuse":
            raise FailedPrecondition("the model folder holds no model.pth")
        case "defect":
            raise KeyError("oops")
        case "slow":
            await asyncio.sleep(60)
    if path := _config.get("pid_file"):
        with open(path, "w") as file:
            file.write(str(os.getpid()))


async def _shutdown() -> None:
    await _batcher.close(1.0)
    if path := _config.get("shutdown_file"):
        with open(path, "w") as file:
            file.write("shut down")


app = GrpcApp(
    HANDLERS,
    {
        ("POST", "/http/echo"): _http_echo,
        ("GET", "/http/fail"): _http_fail,
        ("GET", "/http/held"): _http_held,
    },
    max_message_bytes=_config.get("max_message_bytes", 10 << 20),
    max_held_bytes=_config.get("max_held_bytes"),
    on_startup=_startup,
    on_shutdown=_shutdown,
    metrics=metrics,
)
