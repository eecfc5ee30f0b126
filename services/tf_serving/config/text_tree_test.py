from __future__ import annotations

import pytest
from google.protobuf import text_format

from libs.proto.messages import BatchingParameters, MonitoringConfig
from services.tf_serving.config.text_tree import Field, TextError, fit, parse


def test_a_text_becomes_fields_with_their_lines() -> None:
    text = """# a { comment
one: 1 two: "a } # b" 'c'
three {  four: [1, 2,
 -3] }; five < six: NAME >, seven: {}
[type.example/name] { eight: true }
"""
    assert parse(text) == (
        Field("one", 2, "1"),
        Field("two", 2, "\"a } # b\" 'c'"),
        Field("three", 3, fields=(Field("four", 3, "1"), Field("four", 3, "2"), Field("four", 3, "-3"))),
        Field("five", 4, fields=(Field("six", 4, "NAME"),)),
        Field("seven", 4, fields=()),
        Field("[type.example/name]", 5, fields=(Field("eight", 5, "true"),)),
    )
    assert parse("# nothing\n") == ()


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a {\n b: 1\n", 3, "the text ends where } is expected"),
        ("a < b: 1 }", 1, "expected a field's name, got }"),
        ("a 1", 1, "expected : or { after a, got 1"),
        ("\na:", 2, "expected a value of a, got the end"),
        ("a: }", 1, "expected a value of a, got }"),
        ("a: [1, 2", 1, "expected a value of a, got the end"),
        ('a: "b\nc: 1', 1, "the text of a has no closing quote on its line"),
        ("1: 2", 1, "expected a field's name, got 1"),
        ("[a", 1, "expected : or { after [a], got the end"),
    ],
)
def test_what_is_no_text_is_told_with_its_line(text: str, line: int, why: str) -> None:
    with pytest.raises(TextError) as caught:
        parse(text)
    assert (caught.value.line, str(caught.value)) == (line, why)


def test_every_field_that_does_not_fit_is_told_and_the_rest_is_read() -> None:
    text = """max_batch: 3
max_batch_size { value: many }
batch_timeout_micros: 4
num_batch_threads { value: 2 }
num_batch_threads { value: 3 }
pad_variable_length_inputs: maybe
thread_pool_name { value: pool }
allowed_batch_sizes: [1, x, 99999999999999999999]
allowed_batch_sizes { value: 1 }
enable_large_batch_splitting { value: t }
max_enqueued_batches { value: 0x10 }
"""
    fitted = fit(parse(text), BatchingParameters.DESCRIPTOR)
    assert [(m.line, m.field, m.message) for m in fitted.mistakes] == [
        (1, "max_batch", "BatchingParameters has no field 'max_batch': did you mean max_batch_size?"),
        (2, "max_batch_size.value", "expected a whole number, got many"),
        (3, "batch_timeout_micros", "is a message with value: expected { ... }, got 4"),
        (5, "num_batch_threads", "is given again, first on line 4"),
        (6, "pad_variable_length_inputs", "expected true or false, got maybe"),
        (7, "thread_pool_name.value", "expected a text in quotes, got pool"),
        (8, "allowed_batch_sizes[1]", "expected a whole number, got x"),
        (8, "allowed_batch_sizes[2]", "expected a whole number, got 99999999999999999999"),
        (9, "allowed_batch_sizes[3]", "is a whole number: expected allowed_batch_sizes: VALUE, got { ... }"),
    ]
    message = text_format.Parse(fitted.text, BatchingParameters())
    assert (message.num_batch_threads.value, list(message.allowed_batch_sizes)) == (2, [1])
    assert message.enable_large_batch_splitting.value and message.max_enqueued_batches.value == 16
    assert fitted.lines["allowed_batch_sizes"] == fitted.lines["allowed_batch_sizes[0]"] == 8


def test_a_choice_is_one_of_its_fields_and_an_enum_one_of_its_names() -> None:
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    text = """model_config_list {
  config { model_type: PYTORCH model_version_policy { all {} latest {} } }
  config { version_labels { key: "a" value: 1 } version_labels { key: "b" vale: 1 } }
}"""
    fitted = fit(parse(text), ModelServerConfig.DESCRIPTOR)
    first, second = "model_config_list.config[0]", "model_config_list.config[1]"
    assert [(m.line, m.field, m.message) for m in fitted.mistakes] == [
        (
            2,
            f"{first}.model_type",
            "expected one of MODEL_TYPE_UNSPECIFIED, TENSORFLOW, OTHER, got PYTORCH",
        ),
        (
            2,
            f"{first}.model_version_policy.latest",
            "is given beside all on line 2: expected one of the two",
        ),
        (
            3,
            f"{second}.version_labels[1].vale",
            "VersionLabelsEntry has no field 'vale': did you mean value?",
        ),
    ]
    assert fitted.line(f"{second}.name.deeper") == 3
    assert fitted.line("nowhere") == 1


def test_whatever_protobufs_parser_takes_has_no_mistake() -> None:
    for text in (
        "",
        "prometheus_config: < enable: t; path: '/a' \"b\" >",
        "prometheus_config { # { \n enable: True, }",
    ):
        want = text_format.Parse(text, MonitoringConfig())
        fitted = fit(parse(text), MonitoringConfig.DESCRIPTOR)
        assert not fitted.mistakes
        assert text_format.Parse(fitted.text, MonitoringConfig()) == want
