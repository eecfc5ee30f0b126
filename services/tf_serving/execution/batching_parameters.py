"""TensorFlow Serving's batching parameters file: a BatchingParameters message in protobuf's text format.

Fields, defaults and checks are those of servables/tensorflow/{session_bundle_config.proto,
bundle_factory_util.cc} and of TensorFlow's kernels/batching_util/shared_batch_scheduler.h. The message is in no
published Python package, so its few fields are read here; that also tells the line of every mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from services.tf_serving.execution.batch_rules import BatchRules
from services.tf_serving.options import Options

PER_MODEL_FILE = "batching_params.pbtxt"
"""Where, in a version's folder, a model has parameters of its own; read with the flag
--enable_per_model_batching_parameters. The name is TensorFlow Serving's (bundle_factory_util.cc)."""


class BatchingParametersError(Exception):
    """The file cannot be read, is no BatchingParameters, or asks for what cannot be. Says where."""


@dataclass(frozen=True, slots=True)
class BatchingParameters:
    """The message. Rows are counted along the first dimension of a request's inputs.

    Attributes:
        max_batch_size: most rows of one request; and of one run, unless large requests are split.
        batch_timeout_micros: how long an incomplete batch may wait.
        max_enqueued_batches: most full batches that wait; more is refused.
        num_batch_threads: batches that run at a time; None leaves it to the server.
        thread_pool_name: for people.
        allowed_batch_sizes: rows that a run may have, ascending; a batch is filled up to the next of them.
        pad_variable_length_inputs: requests of unequal trailing sizes may share a run, filled up to the largest.
        enable_large_batch_splitting: a request of more rows than a run may have is run in parts.
        max_execution_batch_size: most rows of one run then; None is max_batch_size.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int | None = None
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None

    @property
    def max_run_rows(self) -> int:
        """Most rows of one run."""
        if not self.enable_large_batch_splitting:
            return self.max_batch_size
        return self.max_execution_batch_size or self.max_batch_size

    def rules(self) -> BatchRules:
        """How batches are formed of them."""
        return BatchRules(self.allowed_batch_sizes, self.pad_variable_length_inputs, self.max_batch_size)


def effective(options: Options) -> tuple[Options, BatchRules]:
    """The options with what their batching parameters file says in place of the flags, and its further rules.

    Raises:
        BatchingParametersError: the file is wrong. Says where.
    """
    if not options.batching_parameters_file or options.max_batch_size is None:
        return options, BatchRules()
    parameters = read(Path(options.batching_parameters_file))
    rows = parameters.max_run_rows
    changed = replace(
        options,
        max_batch_size=rows,
        batch_timeout_ms=parameters.batch_timeout_micros / 1000,
        # Of no waiting batches at all TensorFlow Serving still keeps the one that is being filled.
        max_queue=max(parameters.max_enqueued_batches, 1) * rows,
        model_threads=parameters.num_batch_threads or options.model_threads,
    )
    return changed, parameters.rules()


def of_version(options: Options, path: Path) -> tuple[bool, BatchRules | None]:
    """Whether the rows of a version in folder `path` share runs, and its own rules for that, None for the server's.

    Raises:
        BatchingParametersError: its own file is wrong.
    """
    if not options.per_model_batching:
        return True, None
    file = path / PER_MODEL_FILE
    if not file.exists():
        return False, None
    parameters = read(file)
    return True, replace(parameters.rules(), max_rows=parameters.max_run_rows)


def read(path: Path) -> BatchingParameters:
    """The parameters in a file.

    Raises:
        BatchingParametersError: it cannot be read or is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BatchingParametersError(f"cannot read {path}: {reason}") from error
    return parse(text, str(path))


def parse(text: str, source: str = "batching parameters") -> BatchingParameters:
    """The parameters in the text format; `source` stands before the line in errors.

    Raises:
        BatchingParametersError: with source, line and field.
    """
    values, lines = _Parser(text, source).message()
    for field, why in problems(values):
        raise BatchingParametersError(f"{source}:{lines[field]}: {why}")
    return BatchingParameters(**values)


def problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the given fields' values, with the field that it is about."""
    sound = True
    for field, least, must in _BOUNDS:
        if values.get(field, least) < least:
            yield field, f"{field} must be {must}; was {values[field]}"
            sound = False
        elif values.get(field, 0) > MOST[field]:
            yield field, f"{field} must be at most {MOST[field]}; was {values[field]}"
            sound = False
    if sound:
        yield from _size_problems(BatchingParameters(**values))


def _size_problems(parameters: BatchingParameters) -> Iterator[tuple[str, str]]:
    rows, most = parameters.max_run_rows, parameters.max_batch_size
    if parameters.enable_large_batch_splitting and rows > most:
        yield (
            "max_execution_batch_size",
            f"max_execution_batch_size must be less than or equal to max_batch_size, {most}; was {rows}",
        )
    allowed = parameters.allowed_batch_sizes
    if not allowed:
        return
    field = "allowed_batch_sizes"
    if allowed[0] < 1:
        yield field, f"{field} must be positive; first entry was {allowed[0]}"
    for before, after in pairwise(allowed):
        if after <= before:
            yield (
                field,
                f"{field} entries must be monotonically increasing; {after} comes after {before}",
            )
    if allowed[-1] != rows:
        bound = "max_execution_batch_size" if rows != most else "max_batch_size"
        yield (
            field,
            f"Last entry in {field} must match {bound}; last entry was {allowed[-1]}; expected {rows}",
        )


_KINDS: dict[str, type] = {
    "max_batch_size": int,
    "batch_timeout_micros": int,
    "max_enqueued_batches": int,
    "num_batch_threads": int,
    "thread_pool_name": str,
    "allowed_batch_sizes": tuple,
    "pad_variable_length_inputs": bool,
    "enable_large_batch_splitting": bool,
    "max_execution_batch_size": int,
}
_PLAIN = ("allowed_batch_sizes", "pad_variable_length_inputs")
"""All others are wrapped: `field { value: 1 }`."""

_BOUNDS = (
    ("max_batch_size", 1, "positive"),
    ("batch_timeout_micros", 0, "non-negative"),
    ("max_enqueued_batches", 0, "non-negative"),
    ("num_batch_threads", 1, "positive"),
    ("max_execution_batch_size", 1, "positive"),
)
MOST = {
    "max_batch_size": 1_000_000,
    "batch_timeout_micros": 10_000_000,
    "max_enqueued_batches": 1_000_000,
    "num_batch_threads": 1024,
    "max_execution_batch_size": 1_000_000,
}
"""Those of the flags that say the same."""

_TRUTHS = {"true": True, "True": True, "t": True, "1": True} | dict.fromkeys(
    ("false", "False", "f", "0"), False
)
_EXPECTED = {int: "a whole number", bool: "true or false", str: "a text in quotes"}
_TOKEN = re.compile(
    r"""(?P<space>[\s]+|\#[^\n]*)|(?P<name>[A-Za-z_][A-Za-z0-9_.]*)|(?P<number>-?[0-9][A-Za-z0-9_.+-]*)"""
    r"""|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<sign>[{}<>\[\]:,;])|(?P<other>.)"""
)


class _Parser:
    """Reads one BatchingParameters, keeping the line of every field."""

    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._tokens = list(_tokens(text))
        self._at = 0

    def message(self) -> tuple[dict[str, Any], dict[str, int]]:
        """The given fields' values, and the lines that they are on."""
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while self._peek():
            field, line = self._next()
            if field not in _KINDS:
                known = ", ".join(_KINDS)
                raise self._wrong(line, f"BatchingParameters has no field {field!r}: expected one of {known}")
            if field in values and field != "allowed_batch_sizes":
                raise self._wrong(line, f"{field} is given twice, first on line {lines[field]}")
            lines.setdefault(field, line)
            if field == "allowed_batch_sizes":
                values[field] = values.get(field, ()) + self._sizes(field)
            elif field in _PLAIN:
                self._expect(":", field)
                values[field] = self._value(field, _KINDS[field])
            else:
                values[field] = self._wrapped(field)
            if self._peek() in (",", ";"):
                self._next()
        return values, lines

    def _wrapped(self, field: str) -> Any:
        """`{ value: 1 }`, which is 0 or the like when it is empty."""
        if self._peek() == ":":
            self._next()
        opening, line = self._next()
        if opening not in ("{", "<"):
            raise self._wrong(
                line, f"{field} is a message: expected {{ value: ... }}, got {opening or 'the end'!r}"
            )
        closing = "}" if opening == "{" else ">"
        value = _KINDS[field]()
        if self._peek() == "value":
            self._next()
            self._expect(":", field)
            value = self._value(field, _KINDS[field])
            if self._peek() in (",", ";"):
                self._next()
        self._expect(closing, field)
        return value

    def _sizes(self, field: str) -> tuple[int, ...]:
        """`: 8`, or `: [8, 16]`."""
        self._expect(":", field)
        if self._peek() != "[":
            return (self._value(field, int),)
        self._next()
        sizes: list[int] = []
        while self._peek() != "]":
            if sizes:
                self._expect(",", field)
            sizes.append(self._value(field, int))
        self._next()
        return tuple(sizes)

    def _value(self, field: str, kind: type) -> Any:
        token, line = self._next()
        try:
            if kind is bool:
                return _TRUTHS[token]
            if kind is str and token[:1] in ("'", '"'):
                return token[1:-1].encode("latin-1", "backslashreplace").decode("unicode_escape")
            if kind is int:
                return int(token, 8) if re.fullmatch("-?0[0-7]+", token) else int(token, 0)
        except (KeyError, ValueError):
            pass
        raise self._wrong(line, f"{field}: expected {_EXPECTED[kind]}, got {token or 'the end'!r}")

    def _expect(self, wanted: str, field: str) -> None:
        token, line = self._next()
        if token != wanted:
            raise self._wrong(line, f"{field}: expected {wanted!r}, got {token or 'the end'!r}")

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _next(self) -> tuple[str, int]:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _wrong(self, line: int, why: str) -> BatchingParametersError:
        return BatchingParametersError(f"{self._source}:{line}: {why}")


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Each token with its line, and at last the end, which is an empty one."""
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "space":
            yield match.group(), line
        line += match.group().count("\n")
    yield "", line
