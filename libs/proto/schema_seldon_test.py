from __future__ import annotations

from seldon_core.proto import prediction_pb2

from libs.proto.testing import assert_part_of, file_schema
from libs.proto.testing_seldon_schema import SELDON_SCHEMA


def test_the_table_is_what_seldon_core_has() -> None:
    assert_part_of(SELDON_SCHEMA, file_schema(prediction_pb2.DESCRIPTOR), left_out={"GraphMetadata"})
