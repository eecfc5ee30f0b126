"""What the filter does with bodies that arrive in pieces, late, never, or more than once, in the real Envoy."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from services.gateway.testing import (
    WPAI_PATH,
    Backend,
    GatewayProcess,
    backends,
    eventually,
    field_bytes,
    free_port,
    predict_request,
)

pytestmark = pytest.mark.timeout(60)

MIB = 1 << 20
LIMIT = 10 * MIB
PREDICT, PYTORCH = WPAI_PATH + "Predict", WPAI_PATH + "PytorchPredict"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("filter") / "nodes.txt"


Setup = tuple[GatewayProcess, list[Backend]]


class Sink:
    """An HTTP/2 server that counts what it is sent, and never answers."""

    SETTINGS = b"\x00\x00\x00\x04" + bytes(5)  # an empty frame of them, which must come first

    def __init__(self) -> None:
        self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(self.SETTINGS)
            while data := connection.recv(65_536):
                self.received += len(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with contextlib.closing(Sink()) as server:
        yield server


@pytest.fixture(scope="module")
def setup(nodes: Path, sink: Sink) -> Iterator[Setup]:
    """Task 1 has an instance, task 2 has that and one that is not there, task 3 has two, task 4 has one that reads."""
    with backends(2) as (one, two):
        nodes.write_text(
            f"1=20000,{one.address}\n2=20000,127.0.0.1:{free_port()},{one.address}\n"
            f"3=20000,{one.address},{two.address}\n4=20000,127.0.0.1:{sink.port}\n"
        )
        with GatewayProcess(nodes) as gateway:
            yield gateway, [one, two]


def message(body: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message as it is on the wire."""
    return struct.pack(">BI", flag, len(body) if length is None else length) + body


@dataclass(slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def grpc(self) -> tuple[int, str]:
        return int(self.headers["grpc-status"]), self.headers.get("grpc-message", "")


class Raw:
    """One call over HTTP/1.1, whose body can be sent in any pieces: what the filter sees is the same."""

    def __init__(self, gateway: GatewayProcess, path: str = PREDICT, **headers: str) -> None:
        host, port = gateway.address.rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=15)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.putrequest("POST", path)
        sent = {"content-type": "application/grpc", "te": "trailers", "transfer-encoding": "chunked"}
        for name, value in {**sent, **headers}.items():
            self.connection.putheader(name.replace("_", "-"), value)
        self.connection.endheaders()

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            if piece:
                self.connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))

    def end(self, trailers: bytes = b"") -> None:
        self.connection.send(b"0\r\n" + trailers + b"\r\n")

    def reply(self) -> Reply:
        with contextlib.closing(self.connection):
            answer = self.connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, headers, answer.read())


def call(gateway: GatewayProcess, *pieces: bytes, path: str = PREDICT, **headers: str) -> Reply:
    raw = Raw(gateway, path, **headers)
    raw.send(*pieces)
    raw.end()
    return raw.reply()


def test_a_message_in_single_bytes(setup: Setup) -> None:
    gateway, (one, _) = setup
    whole = message(predict_request("textcnn-1", b"payload"))
    raw = Raw(gateway)
    for at in range(len(whole)):
        raw.send(whole[at : at + 1])
        if at % 8 == 0:
            time.sleep(0.001)  # so that not all of them are one
    raw.end()
    assert raw.reply().body == whole
    assert one.calls[-1].body == whole[5:]


def test_a_backend_gets_the_request_while_it_still_arrives(setup: Setup, sink: Sink) -> None:
    raw = Raw(setup[0])
    raw.send(message(predict_request("a-4", bytes(2 * MIB)))[:100_000])
    # As much of it as HTTP/2 allows to an instance that has not said otherwise.
    eventually(lambda: sink.received > 60_000, "the beginning is at the instance")
    raw.connection.close()


@pytest.mark.parametrize(
    ("name", "pieces", "path", "headers", "said"),
    [
        ("no body", [], PREDICT, {}, "the call carries no request message"),
        ("no body, a header", [], PREDICT, {"x_dl_task": "1"}, "the call carries no request message"),
        ("half a prefix", [b"\0\0\0"], PREDICT, {}, "cut short"),
        ("an empty message", [message(b"")], PREDICT, {}, "the request has no model_spec.name"),
        ("half a message", [message(b"\x0a", length=50)], PREDICT, {}, "cut short"),
        ("half a payload", [message(predict_request("a-1"), length=90)], PREDICT, {}, "cut short"),
        ("the same, a header", [message(b"", length=90)], PREDICT, {"x_dl_task": "1"}, "cut short"),
        ("two", [message(predict_request("a-1")) * 2], PREDICT, {}, "more than one request message"),
        (
            "two, in pieces",
            [message(predict_request("a-1")), message(predict_request("a-1"))],
            PREDICT,
            {},
            "more than one request message",
        ),
        ("an unknown flag", [message(b"", flag=2)], PREDICT, {}, "not a gRPC message"),
        ("packed, unnamed", [message(b"x", flag=1)], PREDICT, {}, "use gzip"),
        (
            "packed by another",
            [message(b"x", flag=1)],
            PREDICT,
            {"grpc_encoding": "zstd"},
            "with zstd: use gzip",
        ),
        ("packed badly", [message(b"x" * 99, flag=1)], PREDICT, {"grpc_encoding": "gzip"}, "damaged"),
        (
            "packed and cut",
            [message(gzip.compress(predict_request("a-1"))[:-20], flag=1)],
            PREDICT,
            {"grpc_encoding": "gzip"},
            "damaged",
        ),
        (
            "packed, half of it",
            [message(gzip.compress(predict_request("a-1")), flag=1, length=5000)],
            PREDICT,
            {"grpc_encoding": "gzip"},
            "cut short",
        ),
        ("no protobuf", [message(b"\xff\xff")], PREDICT, {}, "not a valid protobuf message"),
        ("no tag", [message(field_bytes(2, b""))], PYTORCH, {}, "set it to the task's number"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value and len(value) < 20 else "",
)
def test_a_body_that_is_wrong_is_refused(
    setup: Setup, name: str, pieces: list[bytes], path: str, headers: dict[str, str], said: str
) -> None:
    code, text = call(setup[0], *pieces, path=path, **headers).grpc
    assert (code, said in text) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], True), text


@pytest.mark.parametrize("headers", [{}, {"x_dl_task": "1"}], ids=["body", "header"])
@pytest.mark.parametrize("length", [LIMIT + 1, 2**32 - 1])
def test_a_request_that_is_too_large_is_refused_before_it_is_sent(
    setup: Setup, headers: dict[str, str], length: int
) -> None:
    before = len(setup[1][0].calls)
    raw = Raw(setup[0], **headers)
    raw.send(message(b"\x0a", length=length))
    code, text = raw.reply().grpc  # though the call has not ended
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert text == f"the request is larger than {LIMIT} bytes"
    assert len(setup[1][0].calls) == before


def test_a_body_longer_than_its_message_says_is_broken_off(setup: Setup) -> None:
    raw = Raw(setup[0])
    raw.send(message(predict_request("a-1"), length=100_000))
    with contextlib.suppress(OSError):  # the gateway may close the connection while we send
        for _ in range(100):
            raw.send(bytes(100_000))
        raw.end()
    with contextlib.suppress(OSError):
        assert "more than one request message" in raw.reply().grpc[1]


def test_trailers_after_a_message(setup: Setup) -> None:
    for whole, said in (
        (message(predict_request("a-1", b"x")), ""),
        (message(b"\x0a", length=9), "cut short"),
        (b"", "no request message"),
    ):
        raw = Raw(setup[0])
        raw.send(whole)
        raw.end(b"x-checksum: 1\r\n")
        reply = raw.reply()
        if said:
            assert said in reply.grpc[1]
        else:
            assert reply.body == whole


def test_the_key_at_the_very_end_of_the_largest_request(setup: Setup) -> None:
    tag = field_bytes(2, field_bytes(1, b"taskId") + field_bytes(2, field_bytes(3, b"1")))
    end = field_bytes(2, tag)
    body = field_bytes(4, bytes(LIMIT - len(end) - 5)) + end
    assert len(body) == LIMIT
    answer = setup[0].call(PYTORCH, body, timeout=15)
    assert (answer.code, answer.body == body) == (grpc.StatusCode.OK, True)


@pytest.mark.parametrize("size", [100, MIB, LIMIT - 100])
def test_a_request_of_any_size_is_sent_again(setup: Setup, size: int) -> None:
    gateway, (one, two) = setup
    # An instance that is not there ...
    for _ in range(4):
        answer = gateway.call(PREDICT, predict_request("a-2", bytes(size)), timeout=15)
        assert answer.code == grpc.StatusCode.OK
    # ... and one that says, having read all of it, that it is going away.
    one.status = grpc.StatusCode.UNAVAILABLE
    try:
        for _ in range(4):
            body = predict_request("a-3", bytes(size))
            answer = gateway.call(PREDICT, body, timeout=15)
            assert (answer.code, answer.body == body) == (grpc.StatusCode.OK, True)
            assert answer.metadata["x-dl-instance"] == two.address
    finally:
        one.status = grpc.StatusCode.OK


def test_callers_that_go_away_leave_nothing_behind(setup: Setup) -> None:
    gateway, _ = setup
    for whole in (
        b"",
        b"\0\0",
        message(b"\x0a", length=99),
        message(predict_request("a-1", b"x"), length=9_000_000),
    ):
        for _ in range(20):
            raw = Raw(gateway)
            raw.send(whole)
            raw.connection.close()
    assert gateway.predict("a-1").code == grpc.StatusCode.OK
