"""The worker's two configurations: the command line's (operator) and the model folder's config.toml (model
owner).

Both are parsed and checked once into frozen dataclasses. A flag on the command line wins over config.toml.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CONFIG_VARIABLE = "TORCH_WORKER_CONFIG"

DEFAULT_MAX_BATCH_SIZE = 64
DEFAULT_MAX_DELAY_MS = 0.0
DEFAULT_MAX_QUEUE = 1024
# The original's limit, which callers and gateway keep as well.
DEFAULT_MAX_MESSAGE_BYTES = 10 << 20


class ConfigError(ValueError):
    """Something in the worker's configuration or model folder is wrong; the message says what to do about
    it.
    """


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What the owner of a model folder says about the model in config.toml, table [model].

    Attributes:
        batchable: True: requests may share a model call, also through a custom run_model; False: never; None
            (not said): they share it unless there is a custom run_model or the first shared call gives other
            answers.
        max_batch_size: most rows in one model call.
        max_delay_ms: how long a request may wait for company when the model is idle.
    """

    batchable: bool | None = None
    max_batch_size: int | None = None
    max_delay_ms: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What the command line says; travels to the serving process as JSON.

    Attributes:
        model_dir: absolute path of the model folder.
        device: cpu, cuda or cuda:N.
        max_batch_size: most rows in one model call; None leaves it to the folder, then to the default.
        max_delay_ms: see ModelConfig; None as above.
        max_queue: most rows waiting for the model; more are refused with RESOURCE_EXHAUSTED.
        threads: CPU threads of one model call; 0 chooses from the cores that this process may use.
        hook_threads: threads that run preprocess; 0 chooses.
        max_message_bytes: largest request message.
        log_level: a level name of the logging module.
    """

    model_dir: str
    device: str = "cpu"
    max_batch_size: int | None = None
    max_delay_ms: float | None = None
    max_queue: int = DEFAULT_MAX_QUEUE
    threads: int = 0
    hook_threads: int = 0
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    log_level: str = "INFO"

    @property
    def model_path(self) -> Path:
        """The model folder."""
        return Path(self.model_dir)

    def to_json(self) -> str:
        """The form that from_json reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> WorkerConfig:
        """Inverse of to_json."""
        return WorkerConfig(**json.loads(text))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _rows(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise ValueError("expected a whole number of rows from 1 to 1000000")
    return value


def _milliseconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10_000:
        raise ValueError("expected milliseconds from 0 to 10000")
    return float(value)


_MODEL_FIELDS: Mapping[str, Callable[[object], Any]] = {
    "batchable": _flag,
    "max_batch_size": _rows,
    "max_delay_ms": _milliseconds,
}


def parse_model_config(text: str, source: Path) -> ModelConfig:
    """Read the text of a config.toml.

    Raises:
        ConfigError: with the file, the line and the field, and what was expected there.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error

    def fail(table: str, key: str | None, problem: str) -> ConfigError:
        field = table if key is None else f"{table}.{key}"
        return ConfigError(f"{source}:{_line_of(text, table, key)}: {field}: {problem}")

    for name in document:
        if name != "model":
            raise fail(name, None, "unknown; the only table is [model]")
    table = document.get("model", {})
    if not isinstance(table, dict):
        raise fail("model", None, "expected a table, [model]")
    values: dict[str, Any] = {}
    for key, value in table.items():
        parse = _MODEL_FIELDS.get(key)
        if parse is None:
            raise fail("model", key, f"unknown field; known are {', '.join(_MODEL_FIELDS)}")
        try:
            values[key] = parse(value)
        except ValueError as error:
            raise fail("model", key, f"{error}, got {value!r}") from error
    return ModelConfig(**values)


def _line_of(text: str, table: str, key: str | None) -> int:
    """Line of a key (or of its table's header), 1-based; tomllib keeps no positions, so it is looked up in
    the text.
    """
    header = re.compile(rf"\s*\[\s*{re.escape(table)}\s*\]")
    wanted = re.compile(rf"""\s*(?:{re.escape(table)}\s*\.\s*)?["']?{re.escape(key or table)}["']?\s*[=.]""")
    lines = text.splitlines()
    table_line = next((n for n, line in enumerate(lines, 1) if header.match(line)), None)
    if key is None and table_line is not None:
        return table_line
    start = table_line or 1
    return next((n for n, line in enumerate(lines[start - 1 :], start) if wanted.match(line)), start)
