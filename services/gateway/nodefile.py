"""The node file: one task a line, `<task id>=<timeout ms>,<host:port>,<host:port>...`.

`#` starts a comment, blank lines are skipped, spaces around the parts do not matter, and the timeout may be
left out (100 ms, as in the system that this format comes from). Parsing is pure and reports every error at
once.
"""

from __future__ import annotations

from dataclasses import dataclass

from libs.balancing.endpoint import Endpoint, EndpointError
from services.gateway.table import (
    DEFAULT_TIMEOUT_MS,
    DEFAULT_WEIGHT,
    MAX_TASK_ID,
    MAX_TIMEOUT_MS,
    Pool,
    Table,
    Task,
)

EXAMPLE = "69=100,10.0.0.7:8500,10.0.0.8:8500"


@dataclass(frozen=True, slots=True)
class NodeFileError:
    """One thing wrong with a node file. `line` counts from 1; 0 means the file as a whole."""

    line: int
    field: str
    problem: str
    expected: str
    hint: str = ""

    def render(self, path: str) -> str:
        """`path:line: field: problem; expected ...; hint: ...`, a form that editors can jump to."""
        where = f"{path}:{self.line}" if self.line else path
        text = f"{where}: {self.field}: {self.problem}; expected {self.expected}"
        return f"{text}; hint: {self.hint}" if self.hint else text


class NodeFileInvalid(Exception):  # noqa: N818 (a state of the file, it carries many errors)
    """The file cannot be used. `errors` holds everything that is wrong with it, in line order."""

    def __init__(self, errors: list[NodeFileError]) -> None:
        super().__init__(f"{len(errors)} error(s)")
        self.errors = errors


def parse(data: bytes) -> Table:
    """Reads a whole node file (UTF-8, any line ends, a byte order mark is ignored).

    Raises NodeFileInvalid with every error found.
    """
    errors: list[NodeFileError] = []
    tasks: dict[int, Task] = {}
    pools: dict[str, Pool] = {}
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        content = raw.partition(b"#")[0].strip()
        if not content:
            continue
        try:
            line = content.decode()
        except UnicodeDecodeError:
            errors.append(NodeFileError(number, "line", "is not UTF-8 text", EXAMPLE))
            continue
        found = _parse_line(number, line, errors)
        if found is None:
            continue
        task, pool = found
        first = tasks.setdefault(task.task_id, task)
        pools.setdefault(pool.name, pool)
        if first is not task:
            errors.append(
                NodeFileError(
                    number,
                    "task",
                    f"{task.task_id} is already on line {first.line}",
                    "each task on one line",
                    "put all of its instances on one line, separated by commas",
                )
            )
    if not tasks and not errors:
        # An editor that truncates before it writes must not empty a running gateway.
        errors.append(NodeFileError(0, "file", "has no task", "at least one task line", f"write: {EXAMPLE}"))
    if errors:
        raise NodeFileInvalid(errors)
    return Table(tasks, pools)


def _parse_line(number: int, line: str, errors: list[NodeFileError]) -> tuple[Task, Pool] | None:
    """The task of one line and its pool; None when it has no usable id. Other errors are added and parsing goes on."""
    name, equals, rest = line.partition("=")
    if not equals:
        errors.append(NodeFileError(number, "line", f"{line!r} has no '='", EXAMPLE))
        return None
    if "=" in rest:
        errors.append(NodeFileError(number, "line", "has more than one '='", EXAMPLE, "one task a line"))
        return None
    task_id = _task_id(number, name.strip(), errors)
    parts = [part.strip() for part in rest.split(",")]
    timeout_ms = DEFAULT_TIMEOUT_MS
    if ":" not in parts[0]:
        timeout_ms = _timeout(number, parts.pop(0), errors)
    endpoints = _endpoints(number, parts, errors)
    if task_id is None:
        return None
    pool = Pool(pool_name(task_id), dict.fromkeys(endpoints, DEFAULT_WEIGHT), line=number)
    return Task(task_id, timeout_ms, pool.name, line=number), pool


def pool_name(task_id: int, part: str = "") -> str:
    """The name of a pool that belongs to one task alone."""
    return f"task-{task_id}-{part}" if part else f"task-{task_id}"


def _task_id(number: int, text: str, errors: list[NodeFileError]) -> int | None:
    expected = f"a whole number from 1 to {MAX_TASK_ID}"
    value = _whole(text)
    if value is None or not 1 <= value <= MAX_TASK_ID:
        errors.append(
            NodeFileError(
                number,
                "task",
                f"{text!r} is not a task id",
                expected,
                "the digits after the last '-' of the model's name: 69 for textcnn-69",
            )
        )
        return None
    if text.startswith("0"):
        errors.append(NodeFileError(number, "task", f"{text!r} starts with 0", expected, f"write {value}"))
        return None
    return value


def _timeout(number: int, text: str, errors: list[NodeFileError]) -> int:
    if not text:
        return DEFAULT_TIMEOUT_MS
    value = _whole(text)
    if value is None or not 1 <= value <= MAX_TIMEOUT_MS:
        hint = "write milliseconds as a bare number: 100"
        if not any(c.isdigit() for c in text):
            hint = f"the timeout comes first, then host:port: {EXAMPLE}"
        errors.append(
            NodeFileError(
                number,
                "timeout",
                f"{text!r} is not a timeout",
                f"milliseconds from 1 to {MAX_TIMEOUT_MS}",
                hint,
            )
        )
        return DEFAULT_TIMEOUT_MS
    return value


def _endpoints(number: int, parts: list[str], errors: list[NodeFileError]) -> tuple[Endpoint, ...]:
    if not parts:
        errors.append(NodeFileError(number, "endpoints", "there is none", "at least one host:port", EXAMPLE))
    found: dict[Endpoint, None] = {}
    for index, part in enumerate(parts, start=1):
        field = f"endpoint {index}"
        if not part:
            errors.append(NodeFileError(number, field, "is empty", "host:port", "remove the extra comma"))
            continue
        try:
            endpoint = Endpoint.parse(part)
        except EndpointError as error:
            errors.append(NodeFileError(number, field, str(error), error.expected, error.hint))
            continue
        if endpoint in found:
            errors.append(
                NodeFileError(
                    number, field, f"{endpoint} is there twice", "each endpoint once", "remove one of the two"
                )
            )
        found[endpoint] = None
    return tuple(found)


def _whole(text: str) -> int | None:
    """A non-negative whole number in ASCII digits, else None. Length is bounded before int() sees it."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
