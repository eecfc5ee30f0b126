"""Calls by the exchange, from callers that do not behave: through Envoy, with curl and grpcio."""

from __future__ import annotations

import random
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc  # type: ignore[import-untyped,unused-ignore]
import pytest

from libs.serving.frames import frame
from libs.serving.headers import pack_fields, unpack_fields
from libs.serving.testing import MAX_MESSAGE_BYTES, ServerProcess, eventually, pyvoy_server

TIMEOUT_S = 20.0
INTERNAL = "13"


def test_packed_fields_are_the_same_unpacked() -> None:
    fields = [(b"a", b"1"), (b"", b""), (b"name", bytes(range(256)) * 300)]
    assert list(unpack_fields(pack_fields(fields))) == fields


def held(server: ServerProcess) -> int:
    with urllib.request.urlopen(f"http://{server.address}/http/held", timeout=TIMEOUT_S) as answer:
        return int(answer.read())


def post(server: ServerProcess, method: str, body: bytes, *headers: str) -> tuple[dict[str, str], bytes]:
    """Header fields and trailers of the answer, and its body, which must hold no line break."""
    fields = [
        option
        for header in ("te: trailers", "content-type: application/grpc", *headers)
        for option in ("-H", header)
    ]
    command = [
        "curl",
        "-sS",
        "--http2-prior-knowledge",
        "-i",
        "--max-time",
        "15",
        *fields,
        "--data-binary",
        "@-",
    ]
    done = subprocess.run(
        [*command, f"http://{server.address}/test.Test/{method}"],
        input=body,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    head, _, rest = done.stdout.partition(b"\r\n\r\n")
    message, _, trailers = rest.partition(b"grpc-status")
    lines = (head + b"\r\n" + (b"grpc-status" + trailers if trailers else b"")).decode().split("\r\n")
    return dict(line.split(": ", 1) for line in lines if ": " in line), message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5S", 5),
        ("5000m", 5),
        ("5000000u", 5),
        ("99999999n", 0.1),
        ("2M", 120),
        ("1H", 3600),
        ("99999999H", 3.6e11),
    ],
)
def test_timeouts(pyvoy: ServerProcess, value: str, seconds: float) -> None:
    _, message = post(pyvoy, "Deadline", frame(b""), f"grpc-timeout: {value}")
    assert min(seconds, 1.8e10) * 0.5 - 1 < float(message[5:]) <= seconds  # those of 64 bits are enough


@pytest.mark.parametrize("value", ["x", "5", "S", "5s", "-5S", "123456789S", "5 S", "18446744073709551616n"])
def test_a_timeout_that_is_none(pyvoy: ServerProcess, value: str) -> None:
    fields, message = post(pyvoy, "Deadline", frame(b""), f"grpc-timeout: {value}")
    assert fields["grpc-status"] == INTERNAL
    assert "timeout" in fields["grpc-message"]
    assert message == b""


def test_no_time_left(pyvoy: ServerProcess) -> None:
    fields, _ = post(pyvoy, "Deadline", frame(b""), "grpc-timeout: 0n")
    assert fields["grpc-status"] == "4"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\0\0", "2 bytes"),
        (frame(b"short")[:-1], "announces"),
        (frame(b"one") + frame(b"two"), "follow"),
        (b"\2" + frame(b"flag")[1:], "compressed-flag is 2"),
        (b"\1" + frame(b"packed")[1:], "grpc-encoding"),
    ],
)
def test_a_body_that_is_no_message(pyvoy: ServerProcess, body: bytes, says: str) -> None:
    fields, _ = post(pyvoy, "Echo", body)
    assert fields["grpc-status"] == INTERNAL
    assert says in fields["grpc-message"]


def sender(server: ServerProcess) -> subprocess.Popen[bytes]:
    """Sends what it is given as a body, piece by piece."""
    command = [
        "curl",
        "-sS",
        "--http2-prior-knowledge",
        "-i",
        "-N",
        "--max-time",
        "15",
        "-T",
        ".",
        "-X",
        "POST",
    ]
    return subprocess.Popen(
        [*command, "-H", "content-type: application/grpc", f"http://{server.address}/test.Test/Echo"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def send(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate(timeout=TIMEOUT_S)


def refused(server: ServerProcess) -> float:
    """Calls of Echo whose message was too large."""
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=TIMEOUT_S) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if "ResourceExhausted" in line and '"Echo"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def test_a_call_is_refused_when_its_message_is_announced(pyvoy: ServerProcess) -> None:
    before = refused(pyvoy)
    process = sender(pyvoy)
    send(process, b"\0" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    eventually(lambda: refused(pyvoy) == before + 1)
    end(process)


def test_a_message_in_pieces(pyvoy: ServerProcess) -> None:
    sent = frame(random.Random(0).randbytes(100_000))
    process = sender(pyvoy)
    for at in (0, 1, 4, 5, 6, 40_000):
        send(process, sent[at : {0: 1, 1: 4, 4: 5, 5: 6, 6: 40_000}.get(at)])
        time.sleep(0.02)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert sent in output


def test_a_caller_that_leaves_with_half_a_message_said(pyvoy: ServerProcess) -> None:
    eventually(lambda: held(pyvoy) == 0)
    processes = [sender(pyvoy) for _ in range(8)]
    for process in processes:
        send(process, frame(bytes(1 << 20))[: 60 << 10])
    time.sleep(0.2)
    for process in processes:
        end(process)
    eventually(lambda: held(pyvoy) == 0)
    assert post(pyvoy, "Echo", frame(b"well"))[1] == frame(b"well")


def test_callers_that_leave_at_any_time_leave_nothing_behind(pyvoy: ServerProcess) -> None:
    """Cancellations and deadlines at random moments, among calls that are answered."""
    seeds = range(6)
    wrong: list[str] = []

    def call(seed: int) -> None:
        rng = random.Random(seed)
        with grpc.insecure_channel(pyvoy.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            echo = channel.unary_unary("/test.Test/Echo")
            sleep = channel.unary_unary("/test.Test/Sleep")
            for number in range(400):
                kind = rng.randrange(10)  # Envoy closes a connection of which most calls are reset
                size = rng.choice((0, 10, 1000, 100_000))
                if kind == 0:
                    left = sleep.future(b"5", timeout=TIMEOUT_S)
                    time.sleep(rng.random() * 0.004)
                    left.cancel()
                elif kind == 1:
                    sleep.future(b"5", timeout=rng.random() * 0.01)
                elif kind == 2:
                    echo.future(bytes(size), timeout=TIMEOUT_S).cancel()
                else:
                    sent = b"%d" % number + bytes(size)
                    if echo(sent, timeout=TIMEOUT_S) != sent:
                        wrong.append(f"{seed}: {number}")

    with ThreadPoolExecutor(len(seeds)) as pool:
        list(pool.map(call, seeds))
    assert wrong == []
    eventually(lambda: held(pyvoy) == 0)


def test_a_connection_cut_with_calls_in_flight(pyvoy: ServerProcess) -> None:
    channel = grpc.insecure_channel(pyvoy.address, options=[("grpc.use_local_subchannel_pool", 1)])
    sleep = channel.unary_unary("/test.Test/Sleep")
    waiting = [sleep.future(b"5", timeout=TIMEOUT_S) for _ in range(50)]
    eventually(lambda: held(pyvoy) >= len(waiting))
    channel.close()
    eventually(lambda: held(pyvoy) == 0)


def test_requests_in_flight_have_bounded_memory() -> None:
    config = {"max_message_bytes": 1 << 20, "max_held_bytes": 2 << 20}
    large = frame(bytes(900_000))
    with pyvoy_server(config) as server, grpc.insecure_channel(server.address) as channel:
        sleep = channel.unary_unary("/test.Test/Sleep")
        echo = channel.unary_unary("/test.Test/Echo")
        waiting = [sleep.future(b"5" + b" " * 900_000, timeout=TIMEOUT_S) for _ in range(2)]
        eventually(lambda: held(server) == len(waiting))
        with pytest.raises(grpc.RpcError) as caught:
            echo(large, timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2097152 bytes" in caught.value.details()
        for call in waiting:
            call.cancel()
        eventually(lambda: held(server) == 0)
        for _ in range(10):
            assert echo(large, timeout=TIMEOUT_S) == large
