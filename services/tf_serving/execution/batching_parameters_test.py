from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.tf_serving.execution.batch_rules import BatchRules
from services.tf_serving.execution.batching_parameters import (
    BatchingParameters,
    BatchingParametersError,
    effective,
    parse,
    read,
)
from services.tf_serving.options import Options

FULL = """
# as TensorFlow Serving's guide writes it
max_batch_size { value: 128 }
batch_timeout_micros { value: 2500 }
max_enqueued_batches { value: 1000000 }
num_batch_threads: { value: 0x8 };
thread_pool_name < value: 'pool, "a"' >
allowed_batch_sizes: 8   # one by one
allowed_batch_sizes: [32, 128],
pad_variable_length_inputs: true
"""


def test_every_field_is_read() -> None:
    assert parse(FULL) == BatchingParameters(
        max_batch_size=128,
        batch_timeout_micros=2500,
        max_enqueued_batches=1_000_000,
        num_batch_threads=8,
        thread_pool_name='pool, "a"',
        allowed_batch_sizes=(8, 32, 128),
        pad_variable_length_inputs=True,
    )
    assert parse("enable_large_batch_splitting{value:true}max_execution_batch_size{value:010}") == (
        BatchingParameters(enable_large_batch_splitting=True, max_execution_batch_size=8)
    )


def test_an_empty_file_means_tensorflow_servings_defaults() -> None:
    assert parse("  # nothing\n") == BatchingParameters()
    parameters = BatchingParameters()
    assert (parameters.max_batch_size, parameters.max_enqueued_batches) == (1000, 10)
    assert parse("batch_timeout_micros {}").batch_timeout_micros == 0


def test_the_official_parser_reads_the_same() -> None:
    """Protobuf's own text parser, on a message made of the same fields."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

    assert wrappers_pb2.DESCRIPTOR.name == "google/protobuf/wrappers.proto"  # it is in the pool
    file = descriptor_pb2.FileDescriptorProto(
        name="batching_parameters_test.proto",
        package="batching_parameters_test",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    message = file.message_type.add(name="BatchingParameters")
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, name, wrapper in (
        (1, "max_batch_size", "Int64Value"),
        (2, "batch_timeout_micros", "Int64Value"),
        (3, "max_enqueued_batches", "Int64Value"),
        (4, "num_batch_threads", "Int64Value"),
        (5, "thread_pool_name", "StringValue"),
    ):
        message.field.add(
            name=name,
            number=number,
            label=kinds.LABEL_OPTIONAL,
            type=kinds.TYPE_MESSAGE,
            type_name=f".google.protobuf.{wrapper}",
        )
    message.field.add(name="allowed_batch_sizes", number=6, label=kinds.LABEL_REPEATED, type=kinds.TYPE_INT64)
    message.field.add(
        name="pad_variable_length_inputs", number=7, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_BOOL
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    official = message_factory.GetMessageClass(
        pool.FindMessageTypeByName("batching_parameters_test.BatchingParameters")
    )
    read_officially: Any = text_format.Parse(FULL, official())
    ours = parse(FULL)
    for name in ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"):
        assert getattr(read_officially, name).value == getattr(ours, name), name
    assert read_officially.thread_pool_name.value == ours.thread_pool_name
    assert tuple(read_officially.allowed_batch_sizes) == ours.allowed_batch_sizes
    assert read_officially.pad_variable_length_inputs == ours.pad_variable_length_inputs
    assert parse(text_format.MessageToString(read_officially)) == ours


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\nmax_batchsize { value: 1 }", "f:2: BatchingParameters has no field 'max_batchsize': expected one of"),
        ("max_batch_size: 64", "f:1: max_batch_size is a message: expected { value: ... }, got '64'"),
        ("max_batch_size", "f:1: max_batch_size is a message: expected { value: ... }, got 'the end'"),
        ("max_batch_size { value: many }", "f:1: max_batch_size: expected a whole number, got 'many'"),
        ("max_batch_size { value: 1.5 }", "f:1: max_batch_size: expected a whole number, got '1.5'"),
        ("max_batch_size { value: 1", "f:1: max_batch_size: expected '}', got 'the end'"),
        ("max_batch_size { value: 1 >", "f:1: max_batch_size: expected '}', got '>'"),
        ("max_batch_size {\n value: 0\n}", "f:1: max_batch_size must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "f:1: batch_timeout_micros must be non-negative; was -1"),
        ("max_enqueued_batches { value: -1 }", "f:1: max_enqueued_batches must be non-negative; was -1"),
        ("\n\nnum_batch_threads { value: 0 }", "f:3: num_batch_threads must be positive; was 0"),
        ("num_batch_threads { value: 2000 }", "f:1: num_batch_threads must be at most 1024; was 2000"),
        ("max_batch_size {value: 1}\nmax_batch_size {value: 1}", "f:2: max_batch_size is given twice, first on line 1"),
        ("pad_variable_length_inputs: yes", "f:1: pad_variable_length_inputs: expected true or false, got 'yes'"),
        ("pad_variable_length_inputs { value: true }", "expected ':', got '{'"),
        ("thread_pool_name { value: x }", "thread_pool_name: expected a text in quotes, got 'x'"),
        ("allowed_batch_sizes: [0, 1000]", "f:1: allowed_batch_sizes must be positive; first entry was 0"),
        ("allowed_batch_sizes: [8 16]", "f:1: allowed_batch_sizes: expected ',', got '16'"),
        (
            "max_batch_size { value: 32 }\nallowed_batch_sizes: 16 allowed_batch_sizes: 8 allowed_batch_sizes: 32",
            "f:2: allowed_batch_sizes entries must be monotonically increasing; 8 comes after 16",
        ),
        (
            "max_batch_size { value: 32 }\nallowed_batch_sizes: [8, 16]",
            "f:2: Last entry in allowed_batch_sizes must match max_batch_size; last entry was 16; expected 32",
        ),
        (
            "max_batch_size { value: 32 } enable_large_batch_splitting { value: true }\n"
            "max_execution_batch_size { value: 64 }",
            "f:2: max_execution_batch_size must be less than or equal to max_batch_size, 32; was 64",
        ),
        ("max_batch_size { value: 8 } }", "f:1: BatchingParameters has no field '}'"),
        ("\n?", "f:2: BatchingParameters has no field '?'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_line_and_field(text: str, complaint: str) -> None:
    with pytest.raises(BatchingParametersError) as caught:
        parse(text, "f")
    assert complaint in str(caught.value)


def test_a_file_that_cannot_be_read_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(BatchingParametersError, match=f"cannot read {tmp_path}/no: No such file"):
        read(tmp_path / "no")
    (tmp_path / "f").write_bytes(b"\xff\xfe")
    with pytest.raises(BatchingParametersError, match="it is not UTF-8"):
        read(tmp_path / "f")


def test_the_file_takes_the_place_of_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text(FULL)
    flags = Options("m", "p", max_batch_size=64, batch_timeout_ms=1, model_threads=2)
    assert effective(flags) == (flags, BatchRules())
    with_file = Options(
        "m", "p", max_batch_size=64, batch_timeout_ms=1, batching_parameters_file=str(file), log_level="DEBUG"
    )
    options, rules = effective(with_file)
    assert (options.max_batch_size, options.batch_timeout_ms, options.max_queue) == (128, 2.5, 128_000_000)
    assert (options.model_threads, options.log_level) == (8, "DEBUG")
    assert rules == BatchRules((8, 32, 128), True, 128)
    off = Options("m", "p", max_batch_size=None, batching_parameters_file=str(file))
    assert effective(off) == (off, BatchRules())

    file.write_text(
        "max_batch_size{value:100} enable_large_batch_splitting{value:true} max_execution_batch_size{value:25}"
        "max_enqueued_batches{value:0}"
    )
    options, rules = effective(with_file)
    assert (options.max_batch_size, options.max_queue) == (25, 25)
    assert rules == BatchRules((), False, 100)
