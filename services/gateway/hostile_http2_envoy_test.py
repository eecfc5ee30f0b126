"""Connections that break or abuse HTTP/2: they are cut off or bounded, and other callers notice nothing."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gateway import testing_http2 as http2
from services.gateway.testing import WPAI_PATH, Answer, Load
from services.gateway.testing_hostile import MIB, TASK, Watched, requests, watched
from services.gateway.testing_http2 import Connection, frame

pytestmark = pytest.mark.timeout(120)

PATH = WPAI_PATH + "Predict"
BODY = http2.message(requests()[PATH])
HEAD = http2.request_headers(PATH)
NAMED = http2.request_headers(PATH, [(b"x-dl-task", str(TASK).encode())])
FLOOD_S = 20.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("hostile")) as found:
        yield found


@contextlib.contextmanager
def others_served(site: Watched) -> Iterator[None]:
    """Another caller's calls all succeed meanwhile, and none of them waits for long."""

    def send() -> Answer:
        time.sleep(0.02)
        return site.gateway.predict(f"textcnn-{TASK}", b"other", timeout=20.0)

    with site.unharmed(), Load(send, threads=2) as load:
        yield
    assert load.failures() == []
    assert len(load.answers) >= 2
    assert max(answer.took_s for answer in load.answers) < 10.0


def flood(connection: Connection, piece: bytes) -> bool:
    """Sends a piece again and again; whether the gateway ended the connection."""
    deadline = time.monotonic() + FLOOD_S
    while time.monotonic() < deadline:
        if not connection.send(piece):
            return True
        while connection.read(0.0):
            pass
        if connection.closed or connection.goaway is not None:
            return connection.wait_closed()
    return False


def test_rapid_reset_ends_the_connection(site: Watched) -> None:
    # CVE-2023-44487: calls that are cancelled at once cost the server and never count as concurrent.
    with others_served(site), Connection(site.address) as connection:
        streams = iter(range(1, http2.MAX_WINDOW, 2))
        for _ in range(1000):
            batch = [next(streams) for _ in range(100)]
            piece = b"".join(
                frame(http2.HEADERS, http2.END_HEADERS, stream, HEAD)
                + frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08")
                for stream in batch
            )
            if not connection.send(piece) or (not connection.read(0.0) and connection.closed):
                break
        assert connection.wait_closed()


def test_calls_that_are_cancelled_at_the_backend_end_the_connection(site: Watched) -> None:
    with others_served(site), Connection(site.address) as connection:
        for start in range(1, 200_000, 200):
            piece = b"".join(
                http2.call(stream, NAMED, BODY) + frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08")
                for stream in range(start, start + 200, 2)
            )
            if not connection.send(piece) or (not connection.read(0.0) and connection.closed):
                break
        assert connection.wait_closed()


def test_a_flood_of_continuations_ends_the_call(site: Watched) -> None:
    # CVE-2024-27316 and kin: headers without an end.
    with others_served(site), Connection(site.address) as connection:
        connection.send(frame(http2.HEADERS, 0, 1, HEAD))
        assert flood(connection, frame(http2.CONTINUATION, 0, 1, http2.block([(b"x-more", b"y" * 8000)])))
    with others_served(site), Connection(site.address) as connection:
        connection.send(frame(http2.HEADERS, 0, 1, HEAD))
        assert flood(connection, frame(http2.CONTINUATION, 0, 1) * 100)


@pytest.mark.parametrize(
    "piece",
    [
        frame(http2.PING, 0, 0, bytes(8)) * 1000,
        http2.settings([(http2.INITIAL_WINDOW_SIZE, 70_000)]) * 1000,
        http2.settings() * 1000,
    ],
    ids=["pings", "settings", "empty-settings"],
)
def test_a_flood_that_asks_for_answers_and_reads_none_ends_the_connection(
    site: Watched, piece: bytes
) -> None:
    with others_served(site), Connection(site.address) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.socket.settimeout(2.0)
        deadline = time.monotonic() + FLOOD_S
        with pytest.raises(OSError):  # it is reset, or takes nothing more
            while time.monotonic() < deadline:
                connection.socket.sendall(piece)


@pytest.mark.parametrize(
    "piece",
    [
        frame(http2.DATA, 0, 1),
        frame(http2.PRIORITY, 0, 1, bytes(4) + b"\x10"),
        frame(http2.WINDOW_UPDATE, 0, 1, b"\0\0\0\x01"),
    ],
    ids=["empty-data", "priorities", "window-updates"],
)  # fmt: skip
def test_a_flood_of_frames_without_use_ends_the_connection(site: Watched, piece: bytes) -> None:
    with others_served(site), Connection(site.address) as connection:
        connection.send(frame(http2.HEADERS, http2.END_HEADERS, 1, HEAD))
        assert flood(connection, piece * 500)


def test_answers_that_nobody_reads_do_not_pile_up(site: Watched) -> None:
    size = 2 * MIB
    body = http2.message(requests()[PATH] + b"\xa2\x06" + b"\x80\x80\x80\x01" + bytes(size))

    def leave_unread() -> None:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(Connection(site.address, window=0)) for _ in range(8)]
            for connection in connections:
                for stream in range(1, 17, 2):
                    assert connection.send(http2.call(stream, HEAD, body))
            time.sleep(1.0)
            assert not any(connection.ended for connection in connections)

    # The allocator keeps what it once had, not all of it at once: what counts is that the next time needs no more.
    leave_unread()
    leave_unread()
    with others_served(site):
        leave_unread()


def test_a_caller_that_reads_slowly_gets_its_answer(site: Watched) -> None:
    body = http2.message(requests()[PATH] + b"\xa2\x06" + b"\x80\x80\x04" + bytes(65536))
    with others_served(site), Connection(site.address, window=1000) as connection:
        connection.send(http2.call(1, HEAD, body))
        deadline = time.monotonic() + 20
        while 1 not in connection.ended and time.monotonic() < deadline:
            connection.read(0.02)
            connection.send(frame(http2.WINDOW_UPDATE, 0, 1, struct.pack(">I", 4000)))
        assert connection.outcomes[1].grpc_status == 0


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-large", b"y" * 40_000)],
        [(b"x-%d" % number, b"y") for number in range(300)],
        [(b"x-same", b"y" * 90)] * 400,
        [(b"x" * 16_000, b"y")],
        [(b"cookie", b"a=b; " * 100)] * 80,
        [(b"grpc-timeout", b"9" * 9000 + b"H")],
    ],
    ids=["one-large", "many", "repeated", "long-name", "cookies", "timeout"],
)
def test_a_bomb_of_headers_gets_an_answer(site: Watched, headers: list[http2.Header]) -> None:
    whole = http2.request_headers(PATH, headers)
    with others_served(site), Connection(site.address) as connection:
        pieces = [whole[at : at + 16_384] for at in range(0, len(whole), 16_384)]
        kinds = [http2.HEADERS] + [http2.CONTINUATION] * (len(pieces) - 1)
        for number, (kind, piece) in enumerate(zip(kinds, pieces, strict=True), 1):
            connection.send(frame(kind, http2.END_HEADERS if number == len(pieces) else 0, 1, piece))
        connection.send(frame(http2.DATA, http2.END_STREAM, 1, BODY))
        assert connection.wait([1]) or connection.wait_closed()
        outcome = connection.outcomes.get(1)
        assert connection.closed or (outcome is not None and (outcome.answered or outcome.reset is not None))


def test_a_bomb_of_references_to_the_table_is_refused(site: Watched) -> None:
    # One header of 4 KiB in the dynamic table, then named thousands of times by one byte each.
    entry = b"\x40" + http2.integer(6, 7) + b"x-bomb" + http2.integer(4000, 7) + b"y" * 4000
    with others_served(site), Connection(site.address) as connection:
        connection.send(frame(http2.HEADERS, http2.END_HEADERS, 1, HEAD + entry + b"\xbe" * 10_000))
        assert connection.wait([1]) or connection.wait_closed()
        assert 1 not in connection.outcomes or connection.outcomes[1].grpc_status != 0


GREETING = http2.PREFACE + http2.settings()
BROKEN = {
    "garbage": b"\0\x01\x02" * 300,
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "half-a-preface": http2.PREFACE[:-3] + b"xxx",
    "data-on-nothing": GREETING + frame(http2.DATA, 0, 1, b"x"),
    "reset-of-nothing": GREETING + frame(http2.RST_STREAM, 0, 1, bytes(4)),
    "frame-too-large": GREETING + frame(http2.DATA, 0, 1, bytes(20_000)),
    "settings-of-odd-size": http2.PREFACE + frame(http2.SETTINGS, 0, 0, b"12345"),
    "window-over-the-limit": GREETING + frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "no-window": GREETING + frame(http2.WINDOW_UPDATE, 0, 0, bytes(4)),
    "push": GREETING + frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, bytes(4) + HEAD),
    "even-stream": GREETING + http2.call(2, HEAD, BODY),
    "bad-header-block": GREETING + frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff" * 30),
    "no-settings": http2.PREFACE + frame(http2.PING, 0, 0, bytes(8)),
    "long-request-line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "two-lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length-and-chunks": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
    "bad-chunk": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
}  # fmt: skip


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_a_broken_connection_is_ended(site: Watched, sent: bytes) -> None:
    with others_served(site), Connection(site.address, greet=False) as connection:
        connection.send(sent)
        assert connection.wait_closed(15.0)


@pytest.mark.parametrize(
    "headers",
    [
        [(b":path", b"/a")],
        [(b":path", b"/a"), (b":method", b"POST")],
        [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b""), (b":authority", b"x")],
        [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a\r\nx: y"), (b":authority", b"x")],
        [(b":method", b"P OST"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"x")],
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/a"),
            (b":authority", b"x"),
            (b"Upper", b"x"),
        ],
        [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b"connection", b"close")],
        [(b":method", b"CONNECT"), (b":authority", b"x:1")],
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/a"),
            (b"content-length", b"99999999999999999999"),
        ],
    ],
)
def test_headers_that_http2_forbids_end_the_call_only(site: Watched, headers: list[http2.Header]) -> None:
    with others_served(site), Connection(site.address) as connection:
        connection.send(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, http2.block(headers)))
        assert connection.wait([1]) or connection.wait_closed()
        assert 1 not in connection.outcomes or connection.outcomes[1].grpc_status != 0


def test_callers_that_begin_and_say_no_more_are_let_go(site: Watched) -> None:
    with others_served(site), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(Connection(site.address, greet=False)) for _ in range(200)]
        half = [stack.enter_context(Connection(site.address)) for _ in range(200)]
        for number, connection in enumerate(half):
            end = http2.END_HEADERS if number % 2 else 0  # headers that go on, bodies that do
            connection.send(frame(http2.HEADERS, end, 1, HEAD))
        site.check()
        del silent


def test_connections_over_the_limit_are_refused_and_the_others_served(tmp_path: Path) -> None:
    with watched(tmp_path, "[listener]\nmax_connections = 50\n") as limited:
        answered = []
        with contextlib.ExitStack() as stack:
            limited.check()
            for _ in range(150):
                connection = stack.enter_context(Connection(limited.address, greet=False))
                connection.send(GREETING + http2.call(1, HEAD, BODY))
                answered.append(connection)
            served = sum(connection.wait([1], 2.0) for connection in answered)
            assert 30 <= served <= 50
            limited.check()  # on the connection that it has
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with Connection(limited.address, greet=False) as connection:
                connection.send(GREETING + http2.call(1, HEAD, BODY))
                if connection.wait([1], 1.0):
                    break
        else:
            raise AssertionError("room again, and nobody is let in")


def test_the_admin_port_takes_no_harm(site: Watched) -> None:
    address = f"127.0.0.1:{site.gateway.admin_port}"
    for sent in (
        b"\0" * 1000,
        b"GET /" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000,
        http2.PREFACE,
        b"POST /status.json HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
    ):
        with Connection(address, greet=False) as connection:
            connection.send(sent)
            threading.Event().wait(0.05)
        assert site.gateway.status()["tasks"][str(TASK)]
    with site.unharmed():
        pass
