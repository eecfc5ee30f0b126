"""The node file: one task a line, `<task id>=<timeout ms>,<host:port>,<host:port>...`.

`#` starts a comment, blank lines are skipped, spaces around the parts do not matter, and the timeout may be
left out (100 ms, as in the system that this format comes from). Parsing is pure and reports every error at
once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from libs.balancing.endpoint import Endpoint, EndpointError

DEFAULT_TIMEOUT_MS = 100
MAX_TIMEOUT_MS = 3_600_000  # an hour: longer than any online call, short enough to catch a typing slip
MAX_TASK_ID = 2**31 - 1  # callers hold the id in a 32-bit signed integer

EXAMPLE = "69=100,10.0.0.7:8500,10.0.0.8:8500"


@dataclass(frozen=True, slots=True)
class NodeLine:
    """One line that names a task. `timeout_ms` is None where the line leaves it out."""

    line: int
    task_id: int
    timeout_ms: int | None
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong. `line` counts from 1; 0 means the file as a whole."""

    line: int
    field: str
    problem: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.line}: {self.field}: {self.problem}; expected {self.expected}"
        return f"{text}; hint: {self.hint}" if self.hint else text


def read(data: bytes) -> tuple[list[NodeLine], list[Problem]]:
    """The tasks of a whole node file (UTF-8, any line ends, a byte order mark is ignored), each once, and what is
    wrong with it."""
    errors: list[Problem] = []
    tasks: dict[int, NodeLine] = {}
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        content = raw.partition(b"#")[0].strip()
        if not content:
            continue

        def wrong(field: str, problem: str, expected: str, hint: str = "", number: int = number) -> None:
            errors.append(Problem(number, field, problem, expected, hint))

        try:
            line = content.decode()
        except UnicodeDecodeError:
            wrong("line", "is not UTF-8 text", EXAMPLE)
            continue
        found = _parse_line(number, line, wrong)
        if found is None:
            continue
        first = tasks.setdefault(found.task_id, found)
        if first is not found:
            wrong(
                "task",
                f"{found.task_id} is already on line {first.line}",
                "each task on one line",
                "put all of its instances on one line, separated by commas",
            )
    if not tasks and not errors:
        # An editor that truncates before it writes must not empty a running gateway.
        errors.append(Problem(0, "file", "has no task", "at least one task line", f"write: {EXAMPLE}"))
    return list(tasks.values()), errors


Wrong = Callable[..., None]  # field, problem, expected, hint


def _parse_line(number: int, line: str, wrong: Wrong) -> NodeLine | None:
    """One line; None when it has no usable id. Other errors are added and parsing goes on."""
    name, equals, rest = line.partition("=")
    if not equals:
        wrong("line", f"{line!r} has no '='", EXAMPLE)
        return None
    if "=" in rest:
        wrong("line", "has more than one '='", EXAMPLE, "one task a line")
        return None
    task_id = _task_id(name.strip(), wrong)
    parts = [part.strip() for part in rest.split(",")]
    timeout_ms = None
    if ":" not in parts[0]:
        timeout_ms = _timeout(parts.pop(0), wrong)
    endpoints = _endpoints(parts, wrong)
    return None if task_id is None else NodeLine(number, task_id, timeout_ms, endpoints)


def _task_id(text: str, wrong: Wrong) -> int | None:
    expected = f"a whole number from 1 to {MAX_TASK_ID}"
    value = _whole(text)
    if value is None or not 1 <= value <= MAX_TASK_ID:
        wrong(
            "task",
            f"{text!r} is not a task id",
            expected,
            "the digits after the last '-' of the model's name: 69 for textcnn-69",
        )
        return None
    if text.startswith("0"):
        wrong("task", f"{text!r} starts with 0", expected, f"write {value}")
        return None
    return value


def _timeout(text: str, wrong: Wrong) -> int | None:
    if not text:
        return None
    value = _whole(text)
    if value is None or not 1 <= value <= MAX_TIMEOUT_MS:
        hint = "write milliseconds as a bare number: 100"
        if not any(c.isdigit() for c in text):
            hint = f"the timeout comes first, then host:port: {EXAMPLE}"
        wrong(
            "timeout",
            f"{text!r} is not a timeout",
            f"milliseconds from 1 to {MAX_TIMEOUT_MS}",
            hint,
        )
        return None
    return value


def _endpoints(parts: list[str], wrong: Wrong) -> tuple[Endpoint, ...]:
    if not parts:
        wrong("endpoints", "there is none", "at least one host:port", EXAMPLE)
    found: dict[Endpoint, None] = {}
    for index, part in enumerate(parts, start=1):
        field = f"endpoint {index}"
        if not part:
            wrong(field, "is empty", "host:port", "remove the extra comma")
            continue
        try:
            endpoint = Endpoint.parse(part)
        except EndpointError as error:
            wrong(field, str(error), error.expected, error.hint)
            continue
        if endpoint in found:
            wrong(field, f"{endpoint} is there twice", "each endpoint once", "remove one of the two")
        found[endpoint] = None
    return tuple(found)


def _whole(text: str) -> int | None:
    """A non-negative whole number in ASCII digits, else None. Length is bounded before int() sees it."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
