"""Writing TFRecord files: each record with its length and the checksums of both.

The format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details. Here in Python, so that
some kilobytes of warm-up requests do not cost an import of TensorFlow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed
_MASK_DELTA = 0xA282EAD8


def _table() -> tuple[int, ...]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The CRC-32C of RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """A checksum as it is stored: turned, and moved by a constant."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def encode(records: Iterable[bytes]) -> bytes:
    """The file of these records."""
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [length, _checksum(length), record, _checksum(record)]
    return b"".join(parts)


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked(crc32c(data)))


def decode(data: bytes) -> list[bytes]:
    """The records of a file's bytes, up to the first that is damaged."""
    records = []
    at = 0
    while at + 12 <= len(data):
        length = data[at : at + 8]
        end = at + 12 + struct.unpack("<Q", length)[0]
        if data[at + 8 : at + 12] != _checksum(length) or end + 4 > len(data):
            break
        record = data[at + 12 : end]
        if data[end : end + 4] != _checksum(record):
            break
        records.append(record)
        at = end + 4
    return records
