"""What the owner of a model folder says about the model: config.toml, parsed and checked once.

A flag on the command line wins over config.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.torch_worker.config import ConfigError


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Table [model] of config.toml; None: not said.

    Attributes:
        batchable: True: requests may share a model call, also through a custom run_model; False: never; None
            (not said): they share it unless there is a custom run_model or the first shared call gives other
            answers.
        max_batch_size: most rows in one model call.
        max_delay_ms: how long a request may wait for company when the model is idle.
        preferred_batch_sizes: rows that a batch is cut to, or filled up to, where possible; ascending.
        instances: model calls that may run at a time, each on a copy of the model.
        threads: CPU threads of one model call.
        autocast: "bfloat16" or "float16": floating operators run in that type where torch deems it safe.
        compile: mode of torch.compile ("default", "reduce-overhead", "max-autotune").
        cuda_graphs: whether to record the model call of each preferred batch size as a CUDA graph.
    """

    batchable: bool | None = None
    max_batch_size: int | None = None
    max_delay_ms: float | None = None
    preferred_batch_sizes: tuple[int, ...] | None = None
    instances: int | None = None
    threads: int | None = None
    autocast: str | None = None
    compile: str | None = None
    cuda_graphs: bool | None = None


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


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of rows, such as [8, 16, 32]")
    return tuple(sorted({_rows(size) for size in value}))


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024:
        raise ValueError("expected a whole number from 1 to 1024")
    return value


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return str(value)

    return parse


AUTOCAST_TYPES = ("bfloat16", "float16")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")

_MODEL_FIELDS: Mapping[str, Callable[[object], Any]] = {
    "batchable": _flag,
    "max_batch_size": _rows,
    "max_delay_ms": _milliseconds,
    "preferred_batch_sizes": _sizes,
    "instances": _count,
    "threads": _count,
    "autocast": _one_of(*AUTOCAST_TYPES),
    "compile": _one_of(*COMPILE_MODES),
    "cuda_graphs": _flag,
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
