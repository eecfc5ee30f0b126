"""Every transport against a real grpcio client: what a caller sees must not depend on the transport."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]
import pytest

from libs.serving import errors
from libs.serving.status import grpc_code
from libs.serving.testing import MAX_MESSAGE_BYTES, eventually

TIMEOUT_S = 20.0
KINDS = sorted(
    cls.__name__ for cls in errors.ServingError.__subclasses__() if cls.__module__ == errors.__name__
)


class Client:
    """Calls by method name, raw bytes both ways."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        )

    def method(self, name: str) -> Any:
        return self.channel.unary_unary(name if name.startswith("/") else f"/test.Test/{name}")

    def __call__(self, name: str, request: bytes = b"", **options: Any) -> bytes:
        answer: bytes = self.method(name)(request, **{"timeout": TIMEOUT_S, **options})
        return answer

    def error(self, name: str, request: bytes = b"", **options: Any) -> Any:
        with pytest.raises(grpc.RpcError) as caught:
            self(name, request, **options)
        return caught.value


@pytest.fixture(params=["pyvoy", "asgi", "aio"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    client = Client(request.getfixturevalue(request.param).address)
    yield client
    client.channel.close()


@pytest.fixture
def pyvoy_client(pyvoy: Any) -> Iterator[Client]:
    client = Client(pyvoy.address)
    yield client
    client.channel.close()


@pytest.mark.parametrize("size", [0, 1, 200_000, 5 << 20, MAX_MESSAGE_BYTES])
def test_messages_of_any_size_come_back_as_they_were(client: Client, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert client("Echo", message) == message


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [10_000, 5 << 20])
def test_compressed_requests(client: Client, compression: Any, size: int) -> None:
    message = b"abc123" * (size // 6)
    assert client("Echo", message, compression=compression) == message


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_a_message_over_the_limit_is_refused(client: Client, compression: Any) -> None:
    error = client.error("Echo", bytes(MAX_MESSAGE_BYTES + 1), compression=compression)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client("Echo", b"next") == b"next"


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_keeps_its_code_and_text(client: Client, kind: str) -> None:
    error = client.error("Fail", kind.encode())
    assert error.code().value[0] == grpc_code(getattr(errors, kind)())
    assert error.details() == f"{kind}: 100 % wrong, größer als erlaubt\nsecond line"


def test_a_subclass_has_its_parents_code(client: Client) -> None:
    assert client.error("Fail", b"subclass").code() is grpc.StatusCode.NOT_FOUND
    assert client.error("Fail", b"bare").code() is grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize("method,request_", [("Fail", b"defect"), ("NotBytes", b""), ("BadMetadata", b"")])
def test_a_defect_shows_an_id_and_nothing_else(client: Client, method: str, request_: bytes) -> None:
    error = client.error(method, request_)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details().startswith("internal error (id ")
    assert "secret" not in error.details()


def test_the_log_has_the_defect_under_its_id(pyvoy: Any, pyvoy_client: Client) -> None:
    details = pyvoy_client.error("Fail", b"defect").details()
    ident = details.partition("(id ")[2][:8]
    eventually(lambda: f"(id {ident})" in pyvoy.stderr and "a secret of the server" in pyvoy.stderr)


def test_unknown_methods(client: Client) -> None:
    for name in ("Nope", "/other.Service/Echo", "/no-method"):
        assert client.error(name, bytes(100_000)).code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_both_ways(client: Client) -> None:
    metadata = (("x-one", "1"), ("x-two", "a"), ("x-two", "b"), ("x-raw-bin", b"\x00\xff"))
    answer, call = client.method("Metadata").with_call(b"", timeout=TIMEOUT_S, metadata=metadata)
    seen = json.loads(answer)
    assert seen["x-one"] == "1"
    assert seen["x-two"] in ("a,b", "a, b")
    assert seen["x-raw-bin"].rstrip("=") == "AP8"
    assert not [key for key in seen if key.startswith(("grpc-", ":")) or key in ("te", "content-type")]
    assert ("x-answer", "yes") in [(item.key, item.value) for item in call.initial_metadata()]


def test_the_deadline_reaches_the_handler(client: Client) -> None:
    assert 5 < float(client("Deadline", timeout=8)) < 8.5  # grpc rounds the header up
    assert client("Deadline", timeout=None) == b"none"


def test_a_late_handler_is_answered_for_at_the_deadline(client: Client) -> None:
    begin = time.monotonic()
    assert client.error("Sleep", b"30", timeout=0.2).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 5


def test_an_expired_request_in_the_queue_never_runs(client: Client) -> None:
    busy = client.method("Model").future(b"1500 busy-deadline", timeout=TIMEOUT_S)
    eventually(lambda: b"busy-deadline" in client("ModelRuns"))
    assert client.error("Model", b"0 late", timeout=0.1).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert busy.result() == b"busy-deadline"
    assert client("Model", b"0 after-deadline") == b"after-deadline"
    assert b"late" not in client("ModelRuns").split()


def test_a_cancelled_request_in_the_queue_never_runs(client: Client) -> None:
    busy = client.method("Model").future(b"1500 busy-cancel", timeout=TIMEOUT_S)
    eventually(lambda: b"busy-cancel" in client("ModelRuns"))
    queued = client.method("Model").future(b"0 left", timeout=TIMEOUT_S)
    time.sleep(0.1)
    queued.cancel()
    assert busy.result() == b"busy-cancel"
    assert client("Model", b"0 after-cancel") == b"after-cancel"
    assert b"left" not in client("ModelRuns").split()


def test_a_full_queue_refuses_at_once(client: Client) -> None:
    busy = client.method("Model").future(b"2000 busy-full", timeout=TIMEOUT_S)
    eventually(lambda: b"busy-full" in client("ModelRuns"))
    queued = [client.method("Model").future(b"0 queued", timeout=TIMEOUT_S) for _ in range(8)]
    time.sleep(0.2)
    begin = time.monotonic()
    assert client.error("Model", b"0 refused").code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert time.monotonic() - begin < 1.2
    assert busy.result() == b"busy-full"
    assert [future.result() for future in queued] == [b"queued"] * 8
    assert b"refused" not in client("ModelRuns").split()


def test_health(client: Client) -> None:
    check = "/grpc.health.v1.Health/Check"
    assert client(check) == b"\x08\x01"
    assert client.error(check, b"\x0a\x04nope").code() is grpc.StatusCode.NOT_FOUND
    assert client.error(check, b"\x0a\x09short").code() is grpc.StatusCode.INVALID_ARGUMENT


def test_many_calls_at_a_time(client: Client) -> None:
    echo = client.method("Echo")
    futures = [echo.future(b"%d" % number, timeout=TIMEOUT_S) for number in range(500)]
    assert [future.result() for future in futures] == [b"%d" % number for number in range(500)]


def test_a_handler_that_ignores_its_end_is_late_all_the_same(pyvoy_client: Client) -> None:
    assert pyvoy_client.error("Stubborn", b"0.3", timeout=0.1).code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_handler_that_cancels_itself_is_a_defect(pyvoy_client: Client) -> None:
    assert pyvoy_client.error("Fail", b"cancelled").code() is grpc.StatusCode.INTERNAL
