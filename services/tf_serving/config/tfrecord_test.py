from __future__ import annotations

from pathlib import Path

import pytest

from services.tf_serving.config import tfrecord
from services.tf_serving.execution.runtime import tensorflow

RECORDS = [b"", b"a", bytes(range(256)) * 40, b"last"]


def test_the_checksum_is_that_of_the_standards_examples() -> None:
    assert tfrecord.crc32c(b"") == 0
    assert tfrecord.crc32c(b"123456789") == 0xE3069283
    assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert tfrecord.crc32c(b"\xff" * 32) == 0x62A8AB43


def test_tensorflow_reads_what_is_written_and_writes_the_same(tmp_path: Path) -> None:
    tf = tensorflow()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_bytes(tfrecord.encode(RECORDS))
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for record in RECORDS:
            writer.write(record)
    assert ours.read_bytes() == theirs.read_bytes()
    assert list(tf.data.TFRecordDataset(str(ours)).as_numpy_iterator()) == RECORDS
    assert list(tf.compat.v1.io.tf_record_iterator(str(ours))) == RECORDS
    assert tfrecord.decode(theirs.read_bytes()) == RECORDS


@pytest.mark.parametrize("place", [0, 8, 12, 13, 16, -1])
def test_what_is_damaged_ends_the_records(place: int) -> None:
    content = bytearray(tfrecord.encode([b"first"]) + tfrecord.encode([b"second"]))
    content[place] ^= 1
    assert tfrecord.decode(bytes(content)) == ([b"first"] if place == -1 else [])
    assert tfrecord.decode(bytes(content[:5])) == []
