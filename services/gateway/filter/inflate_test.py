"""The filter's inflate against zlib's: on all that zlib makes, and on what is left of it when it is damaged."""

from __future__ import annotations

import gzip
import random
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.filter.testing import End, Format, inflate

BITS = {Format.RAW: -15, Format.ZLIB: 15, Format.GZIP: 31}
CHECKSUMS = {Format.RAW: 0, Format.ZLIB: 4, Format.GZIP: 8}  # bytes after the data
LARGE = 1 << 19


def packed(data: bytes, form: Format, level: int = 6, strategy: int = 0) -> bytes:
    machine = zlib.compressobj(level, zlib.DEFLATED, BITS[form], 9, strategy)
    return machine.compress(data) + machine.flush()


def by_zlib(source: bytes, form: Format, room: int) -> tuple[bytes, str]:
    """What zlib makes of a source, byte by byte so that nothing before a fault is lost: and whole, cut or damaged."""
    machine, out = zlib.decompressobj(BITS[form]), bytearray()
    try:
        for at in range(len(source)):
            out += machine.decompress(source[at : at + 1])
            if machine.eof or len(out) > room + 1000:
                break
    except zlib.error:
        return bytes(out), "damaged"
    return bytes(out), "whole" if machine.eof else "cut"


def sample(rng: random.Random) -> bytes:
    """Data that packs into every kind of block."""
    parts = [
        rng.randbytes(rng.randrange(200)),
        bytes(rng.randrange(400)),
        b"textcnn-69" * rng.randrange(60),
        str([rng.randrange(1000) for _ in range(rng.randrange(200))]).encode(),
    ]
    rng.shuffle(parts)
    return b"".join(parts[: rng.randint(1, 4)])


@pytest.mark.parametrize("form", list(Format))
@given(data=st.binary(max_size=3000), level=st.integers(0, 9), strategy=st.integers(0, 4))
@settings(max_examples=150, deadline=None)
def test_what_zlib_packs_is_unpacked(form: Format, data: bytes, level: int, strategy: int) -> None:
    assert inflate(form, packed(data, form, level, strategy), LARGE) == (data, End.WHOLE)


def test_blocks_of_every_kind_and_size() -> None:
    rng = random.Random(1951)
    for _ in range(300):
        data = sample(rng) * rng.choice((1, 1, 1, 9))
        form = rng.choice(list(Format))
        source = packed(data, form, rng.randrange(10), rng.randrange(5))
        assert inflate(form, source, LARGE) == (data, End.WHOLE)
        room = rng.randrange(len(data) + 1)
        assert inflate(form, source, room) == (data[:room], End.FULL if room < len(data) else End.WHOLE)


def test_distances_reach_far_back() -> None:
    data = random.Random(3).randbytes(32_500) * 2  # zlib looks for matches nearly 32 KiB back
    source = packed(data, Format.RAW)
    assert len(source) < 34_000
    assert inflate(Format.RAW, source, LARGE) == (data, End.WHOLE)


def test_a_source_cut_anywhere_gives_what_came_before() -> None:
    rng = random.Random(5)
    for form in Format:
        for strategy in (0, 4):  # codes of its own, fixed codes
            data = sample(rng)
            source = packed(data, form, 6, strategy)
            for length in range(len(source)):
                out, end = inflate(form, source[:length], LARGE)
                theirs, _ = by_zlib(source[:length], form, LARGE)
                assert out == theirs
                assert end == (End.WHOLE if length >= len(source) - CHECKSUMS[form] else End.CUT)


def test_damaged_sources_give_what_zlib_gives() -> None:
    rng = random.Random(1950)
    ends = set()
    for _ in range(12_000):
        form = rng.choice(list(Format))
        source = bytearray(packed(sample(rng)[:300], form, rng.randrange(10), rng.choice((0, 0, 4))))
        for _ in range(rng.randint(1, 5)):
            # the head more often than not: that is where the tables are
            at = rng.randrange(len(source) if rng.random() < 0.5 else min(len(source), 40))
            source[at] = rng.randrange(256)
        room = rng.choice((64, 1024, 65_536))
        out, end = inflate(form, bytes(source), room)
        theirs, state = by_zlib(bytes(source), form, room)
        ends.add(end)
        # zlib gives nothing of the call in which it finds a fault, and it verifies checksums.
        assert out.startswith(theirs[: len(out)]) and len(out) >= min(len(theirs), room)
        if state == "whole":
            assert (end, len(out)) in ((End.WHOLE, len(theirs)), (End.FULL, room))
        elif state == "cut":
            assert out == theirs[:room]
        elif form == Format.RAW:
            assert end != End.WHOLE
    assert ends == set(End)


def test_noise_is_no_danger() -> None:
    rng = random.Random(7)
    for _ in range(20_000):
        inflate(Format.RAW, rng.randbytes(rng.randrange(120)), rng.choice((0, 1, 100, 70_000)))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x1f\x8b",
        b"\x1f\x8b\x07" + bytes(30),
        b"PK\x03\x04" + bytes(30),
        b"\x1f\x8b\x08\x20" + bytes(30),  # a reserved flag
        b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff",  # an extra field longer than the source
        b"\x1f\x8b\x08\x08" + bytes(6) + b"name without an end",
    ],
)
def test_what_is_not_gzip_gives_nothing(head: bytes) -> None:
    out, end = inflate(Format.GZIP, head, 100)
    assert out == b""
    assert end in (End.CUT, End.DAMAGED)


def test_a_gzip_header_with_everything_in_it() -> None:
    flags = 2 | 4 | 8 | 16  # header checksum, extra field, name, comment
    header = (
        b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + b"\x03\x00abc" + b"name\0" + b"comment\0" + b"\x01\x02"
    )
    raw = packed(b"textcnn-69", Format.RAW)
    assert inflate(Format.GZIP, header + raw, 100) == (b"textcnn-69", End.WHOLE)
    assert inflate(Format.GZIP, gzip.compress(b"textcnn-69"), 100) == (b"textcnn-69", End.WHOLE)


@pytest.mark.parametrize("second", [0x02, 0xBB])  # a wrong check, a preset dictionary
def test_what_is_not_zlib_gives_nothing(second: int) -> None:
    assert inflate(Format.ZLIB, bytes([0x78, second]) + packed(b"a", Format.RAW), 100) == (b"", End.DAMAGED)


def test_the_slowest_sources_take_no_time_to_speak_of() -> None:
    rng = random.Random(11)
    literals = bytes(rng.choice(b"abcdefghijklmnopqrstuvwxyz") for _ in range(65_536))
    tables = b""
    while len(tables) < 66_560:  # blocks that are hardly more than their tables
        machine = zlib.compressobj(9, zlib.DEFLATED, -15)
        tables += machine.compress(str(rng.random()).encode()) + machine.flush(zlib.Z_FULL_FLUSH)
    for source in (packed(literals, Format.RAW), tables[:66_560]):
        began = time.perf_counter()
        inflate(Format.RAW, source, 65_536)
        assert time.perf_counter() - began < 2.0  # unoptimised and checked, on a busy machine
