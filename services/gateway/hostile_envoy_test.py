"""Spoilt messages: every call gets a status, and the gateway is as well afterwards as before."""

from __future__ import annotations

import gzip
import itertools
import random
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from services.gateway import testing_http2 as http2
from services.gateway.testing import WPAI_PATH, field_bytes, predict_request, varint
from services.gateway.testing_hostile import MIB, TASK, Watched, requests, watched

pytestmark = pytest.mark.timeout(120)

REQUESTS = requests()
OWN = [path for path in REQUESTS if path.startswith(WPAI_PATH)]
INVALID_ARGUMENT, UNIMPLEMENTED = 3, 12
BATCH = 200  # calls in flight on one connection


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("hostile")) as found:
        yield found


def statuses(
    site: Watched,
    path: str,
    bodies: Sequence[bytes],
    *,
    more: Sequence[http2.Header] = (),
    kind: bytes = b"application/grpc",
) -> list[int | None]:
    """Sends each body as a call of its own, many at once; the gRPC status of each, or None for none."""
    headers = http2.request_headers(path, more, kind)
    found: list[int | None] = []
    with http2.Connection(site.address) as connection:
        streams = itertools.count(1, 2)
        for at in range(0, len(bodies), BATCH):
            batch = [(next(streams), body) for body in bodies[at : at + BATCH]]
            assert connection.send(b"".join(http2.call(stream, headers, body) for stream, body in batch))
            assert connection.wait([stream for stream, _ in batch]), "calls without an end"
            found += [connection.outcomes[stream].grpc_status for stream, _ in batch]
        assert connection.goaway is None
    return found


@pytest.mark.parametrize("path", REQUESTS)
def test_a_message_cut_at_any_length_gets_a_status(site: Watched, path: str) -> None:
    whole = REQUESTS[path]
    with site.unharmed():
        found = statuses(site, path, [http2.message(whole[:end]) for end in range(len(whole) + 1)])
    assert None not in found
    assert found[0] == INVALID_ARGUMENT  # nothing names a task
    assert found[-1] == 0


@pytest.mark.parametrize("path", OWN)
def test_a_frame_cut_at_any_length_gets_a_status(site: Watched, path: str) -> None:
    whole = http2.message(REQUESTS[path])
    with site.unharmed():
        found = statuses(site, path, [whole[:end] for end in range(len(whole))])
    assert None not in found
    assert 0 not in found


def test_a_frame_that_lies_about_itself_gets_a_status(site: Watched) -> None:
    body = REQUESTS[WPAI_PATH + "Predict"]
    lies = [
        struct.pack(">BI", 0, size) + body
        for size in (0, 1, len(body) - 1, len(body) + 1, 1 << 24, (1 << 32) - 1)
    ]
    lies += [struct.pack(">BI", flag, len(body)) + body for flag in range(1, 256)]
    lies += [http2.message(body) * 2, http2.message(body) + b"\0", http2.message(b"") + http2.message(body)]
    with site.unharmed():
        assert None not in statuses(site, WPAI_PATH + "Predict", lies)


@pytest.mark.parametrize(
    "kind",
    [b"", b"text/plain", b"application/json", b"application/grpc-", b"application/grpcx", b"application/GRPC", b"\xff",
     b"application/grpc-web", b"application/grpc-web-text", b"multipart/form-data; boundary=" + b"x" * 4000],
)  # fmt: skip
def test_a_wrong_content_type_gets_an_answer(site: Watched, kind: bytes) -> None:
    headers = http2.request_headers(WPAI_PATH + "Predict", content_type=kind)
    with site.unharmed(), http2.Connection(site.address) as connection:
        connection.send(http2.call(1, headers, http2.message(REQUESTS[WPAI_PATH + "Predict"])))
        assert connection.wait([1])
        outcome = connection.outcomes[1]
        assert outcome.answered or outcome.reset is not None, outcome
        assert outcome.grpc_status != 0 or b"grpc" in kind.lower()


def mutations(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damage of the kinds that parsers fear: bits, bytes, lengths, pieces lost, doubled, moved and foreign."""
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
            at = draw.randrange(len(data) + 1)
            kind = draw.randrange(8)
            if not data or kind == 0:
                data[at:at] = draw.randbytes(draw.choice((1, 2, 16)))
            elif kind == 1:
                data[at % len(data)] ^= 1 << draw.randrange(8)
            elif kind == 2:
                data[at % len(data)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
            elif kind == 3:
                del data[at : at + draw.choice((1, 2, 5, 40))]
            elif kind == 4:
                data[at:at] = data[at : at + draw.randrange(1, 30)]
            elif kind == 5:  # a number that is far too large, or has no end
                data[at:at] = draw.choice(
                    (varint(1 << 63), varint((1 << 32) - 1), b"\xff" * 11, b"\x80" * 20)
                )
            elif kind == 6:
                data = data[at:] + data[:at]
            else:  # groups, wire types that do not exist, deep nesting
                data[at:at] = draw.choice((b"\x0b" * 50, b"\x0c", b"\x0e\x0f", b"\x0a\x7f" * 20))
        yield bytes(data)


@pytest.mark.parametrize("path", OWN)
def test_ten_thousand_mutations_each_get_a_status(site: Watched, path: str) -> None:
    bodies = [http2.message(body) for body in mutations(REQUESTS[path], 10_000, seed=len(path))]
    with site.unharmed():
        found = Counter(statuses(site, path, bodies))
    assert None not in found
    assert set(found) <= {0, INVALID_ARGUMENT, 5, 8}, found
    assert found[0] > 500  # damage behind the task's name is the backend's to judge
    assert found[INVALID_ARGUMENT] > 500


def bomb(prefix: bytes, size: int, wbits: int) -> bytes:
    """`prefix` and then `size` zeros, compressed a thousandfold; made from one piece, since zeros repeat."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    head = packer.compress(prefix) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + piece * (size // MIB)  # without an end: nobody should get that far


@pytest.mark.parametrize("encoding, wbits", [(b"gzip", 31), (b"deflate", 15)])
def test_a_bomb_of_a_gibibyte_is_refused(site: Watched, encoding: bytes, wbits: int) -> None:
    size = 1 << 30
    # The name behind a field of a gibibyte: to find it, all of that would have to be inflated.
    hidden = varint(100 << 3 | 2) + varint(size - 64)
    bodies = [bomb(prefix, size, wbits) for prefix in (hidden, b"", field_bytes(1, b"\x0a\x07no-name"))]
    calls = [http2.message(body, 1) for body in bodies]
    with site.unharmed():
        found = statuses(site, WPAI_PATH + "Predict", calls, more=[(b"grpc-encoding", encoding)])
    assert None not in found
    assert 0 not in found


def test_damaged_compression_gets_a_status(site: Watched) -> None:
    whole = gzip.compress(predict_request(f"textcnn-{TASK}", b"x" * 200), mtime=0)
    spoilt = [http2.message(whole[:end], 1) for end in range(len(whole))]
    spoilt += [http2.message(body, 1) for body in mutations(whole, 1000, seed=1)]
    with site.unharmed():
        for encoding in (b"gzip", b"deflate", b"identity", b"snappy", b"br", b"", b"gzip, gzip", b"x" * 1000):
            assert None not in statuses(
                site, WPAI_PATH + "Predict", spoilt if encoding == b"gzip" else spoilt[::50],
                more=[(b"grpc-encoding", encoding)],
            )  # fmt: skip


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"7 ", b"07", b"99999999999999999999", b"gateway", b"7,7", b"\x80", b"7" * 8000]
)
def test_a_task_header_of_any_kind_gets_a_status(site: Watched, value: bytes) -> None:
    with site.unharmed(), http2.Connection(site.address) as connection:
        headers = http2.request_headers(WPAI_PATH + "Predict", [(b"x-dl-task", value)])
        connection.send(http2.call(1, headers, http2.message(b"")))
        assert connection.wait([1])
        assert connection.outcomes[1].answered or connection.outcomes[1].reset is not None
        assert connection.outcomes[1].grpc_status != 0 or value == b"07"


def test_paths_of_any_kind_get_a_status(site: Watched) -> None:
    draw = random.Random(5)
    letters = "/.%\\?#ab Predict\t;:@&=+$,~"
    paths = [
        "*",
        "/",
        "//",
        "/" * 9000,
        WPAI_PATH,
        WPAI_PATH + "Predict/",
        WPAI_PATH + "../Predict",
        "http://x/y",
    ]
    paths += ["/" + "".join(draw.choices(letters, k=draw.randrange(1, 60))) for _ in range(300)]
    body = http2.message(REQUESTS[WPAI_PATH + "Predict"])
    with site.unharmed():
        for path in paths:
            with http2.Connection(site.address) as connection:
                connection.send(http2.call(1, http2.request_headers(path), body))
                assert connection.wait([1]) or connection.closed, path
                outcome = connection.outcomes.get(1)
                assert connection.closed or (
                    outcome is not None and (outcome.answered or outcome.reset is not None)
                ), path
