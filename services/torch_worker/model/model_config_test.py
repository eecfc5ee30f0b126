from __future__ import annotations

from pathlib import Path

import pytest

from services.torch_worker.config import ConfigError
from services.torch_worker.model.model_config import ModelConfig, parse_model_config

FILE = Path("/m/config.toml")


def test_reads_every_field() -> None:
    text = "# about the model\n[model]\nbatchable = true\nmax_batch_size = 8\nmax_delay_ms = 2\n"
    assert parse_model_config(text, FILE) == ModelConfig(batchable=True, max_batch_size=8, max_delay_ms=2.0)


@pytest.mark.parametrize("text", ["", "# nothing\n", "[model]\n"])
def test_everything_is_optional(text: str) -> None:
    assert parse_model_config(text, FILE) == ModelConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[model]\nbatchable = 1\n", "/m/config.toml:2: model.batchable: expected true or false, got 1"),
        (
            '[model]\n\n# x\nmax_batch_size = "8"\n',
            "/m/config.toml:4: model.max_batch_size: expected a whole",
        ),
        ("[model]\nmax_batch_size = 0\n", "/m/config.toml:2: model.max_batch_size: expected a whole number"),
        ("[model]\nmax_batch_size = true\n", "/m/config.toml:2: model.max_batch_size: expected a whole"),
        ("[model]\nmax_delay_ms = -1\n", "/m/config.toml:2: model.max_delay_ms: expected milliseconds"),
        ("model.max_delay_ms = 1e9\n", "/m/config.toml:1: model.max_delay_ms: expected milliseconds"),
        ("[model]\nbatchabel = true\n", "/m/config.toml:2: model.batchabel: unknown field; known are batch"),
        ("\n[modle]\n", "/m/config.toml:2: modle: unknown; the only table is [model]"),
        ("x = 1\n", "/m/config.toml:1: x: unknown"),
        ("model = 3\n", "/m/config.toml:1: model: expected a table"),
        ("[model\n", "/m/config.toml: not valid TOML: Expected ']'"),
    ],
)
def test_errors_name_file_line_and_field(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_model_config(text, FILE)
    assert str(caught.value).startswith(expected)
