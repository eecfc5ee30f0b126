"""Properties: whatever is done to a file, either protobuf's parser takes it and so do we, or there is a mistake."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.proto.messages import BatchingParameters, MonitoringConfig
from services.tf_serving.config.checking import Report, check_batching, check_monitoring, read
from services.tf_serving.config.testing_golden import FOLDER
from services.tf_serving.execution import batching_parameters
from services.tf_serving.execution.batching_parameters import BatchingParametersError

PIECES = (
    *(
        "{",
        "}",
        "<",
        ">",
        "[",
        "]",
        ":",
        ",",
        ";",
        '"',
        "'",
        "#",
        "\n",
        " ",
        "1",
        "-1",
        "99999999999",
        "0x1",
        "1.5",
    ),
    *(
        "true",
        "maybe",
        '"a"',
        "'b'",
        "name",
        "value",
        "all {}",
        "latest { num_versions: 2 }",
        "versions: 3",
        "é",
        "\\",
    ),
    *("max_batch_size { value: 8 }", "allowed_batch_sizes: [4, 8]", "allowed_batch_sizes: 4", "enable: true"),
    *(
        "prometheus_config",
        "config { name: 'x' }",
        "model_config_list",
        "custom_model_config {}",
        "path: '/x'",
    ),
)


def spoiled(file: Path) -> st.SearchStrategy[str]:
    """The file with some pieces put in, cut out or put for others."""
    text = file.read_text()
    edit = st.tuples(st.integers(0, len(text)), st.integers(0, 40), st.sampled_from(("", *PIECES)))

    def apply(edits: list[tuple[int, int, str]]) -> str:
        made = text
        for at, length, piece in sorted(edits, reverse=True):
            made = made[:at] + piece + made[at + length :]
        return made

    return st.lists(edit, min_size=1, max_size=3).map(apply)


def told(check: Callable[[Path, Report], object], text: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "f")
        file.write_text(text)
        report = Report()
        check(file, report)
    return report.mistakes


def officially(text: str, message: Any) -> bool:
    try:
        text_format.Parse(text, message)
    except text_format.ParseError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(spoiled(FOLDER / "by_model" / "models.config"))
def test_models_are_taken_as_protobuf_takes_them(text: str) -> None:
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    mistakes = told(lambda file, report: _read_only(file, ModelServerConfig(), report), text)
    assert bool(mistakes) == (not officially(text, ModelServerConfig())), mistakes


def _read_only(file: Path, message: Any, report: Report) -> None:
    found = read(file, message, report)
    if found is not None:
        report.add(file, found[2])


@settings(max_examples=400, deadline=None)
@given(spoiled(FOLDER / "gpu" / "batching.config"))
def test_batching_parameters_are_taken_as_the_server_takes_them(text: str) -> None:
    mistakes = told(check_batching, text)
    if not officially(text, BatchingParameters()):
        assert mistakes
        return
    try:
        batching_parameters.parse(text)
    except BatchingParametersError:
        assert mistakes
    else:
        assert not mistakes


@settings(max_examples=200, deadline=None)
@given(spoiled(FOLDER / "cpu" / "monitoring.config"))
def test_monitoring_is_taken_as_protobuf_takes_it(text: str) -> None:
    message = MonitoringConfig()
    fine = officially(text, message) and message.prometheus_config.path[:1] in ("", "/")
    assert bool(told(check_monitoring, text)) == (not fine)


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("max_batch_size { value: 4 } max_execution_batch_size { value: 2 }", []),
        (
            "max_batch_size { value: 0 }\nnum_batch_threads { value: 0 }\nmax_enqueued_batches { value: -1 }",
            [
                "f:1: max_batch_size: max_batch_size must be positive; was 0",
                "f:2: num_batch_threads: num_batch_threads must be positive; was 0",
                "f:3: max_enqueued_batches: max_enqueued_batches must be non-negative; was -1",
            ],
        ),
        (
            "allowed_batch_sizes: [0, 4, 4]\nmax_batch_size { value: 8 }",
            [
                "f:1: allowed_batch_sizes: allowed_batch_sizes must be positive; first entry was 0",
                "f:1: allowed_batch_sizes: allowed_batch_sizes entries must be monotonically increasing; "
                "4 comes after 4",
                "f:1: allowed_batch_sizes: Last entry in allowed_batch_sizes must match max_batch_size; last entry "
                "was 4; expected 8",
            ],
        ),
    ],
)
def test_all_that_is_wrong_with_the_values_is_told(text: str, mistakes: list[str]) -> None:
    found = told(check_batching, text)
    assert [f"f:{mistake.partition('/f:')[2]}" for mistake in found] == mistakes
