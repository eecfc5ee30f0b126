"""The node file: one task a line, `<task id>=<timeout ms>,<host:port>,<host:port>...`.

`#` starts a comment, blank lines are skipped, spaces around the parts do not matter, and the timeout may be
left out (100 ms, as in the system that this format comes from). Parsing is pure and reports every error at
once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from libs.balancing.endpoint import Endpoint, EndpointError
from services.gateway.configuration_errors import ConfigError, ConfigInvalid
from services.gateway.table import (
    DEFAULT_TIMEOUT_MS,
    DEFAULT_WEIGHT,
    MAX_TASK_ID,
    MAX_TIMEOUT_MS,
    Place,
    Pool,
    Table,
    Task,
    pool_name,
)

EXAMPLE = "69=100,10.0.0.7:8500,10.0.0.8:8500"


@dataclass(frozen=True, slots=True)
class NodeLine:
    """One line that names a task. `timeout_ms` is None where the line leaves it out."""

    line: int
    task_id: int
    timeout_ms: int | None
    endpoints: tuple[Endpoint, ...]


def parse(data: bytes, path: Path = Path("nodefile")) -> Table:
    """The table of a node file alone. Raises ConfigInvalid with every error found; `path` is what they name."""
    lines, errors = read(data, path)
    if errors:
        raise ConfigInvalid(errors, [path])
    tasks: dict[int, Task] = {}
    pools: dict[str, Pool] = {}
    for line in lines:
        places = (Place(path, line.line),)
        pool = Pool(pool_name(line.task_id), dict.fromkeys(line.endpoints, DEFAULT_WEIGHT), places=places)
        timeout_ms = DEFAULT_TIMEOUT_MS if line.timeout_ms is None else line.timeout_ms
        tasks[line.task_id] = Task(line.task_id, timeout_ms, pool.name, places=places)
        pools[pool.name] = pool
    return Table(tasks, pools)


def read(data: bytes, path: Path) -> tuple[list[NodeLine], list[ConfigError]]:
    """The tasks of a whole node file (UTF-8, any line ends, a byte order mark is ignored), each once, and what is
    wrong with it."""
    errors: list[ConfigError] = []
    tasks: dict[int, NodeLine] = {}
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        content = raw.partition(b"#")[0].strip()
        if not content:
            continue

        def wrong(field: str, problem: str, expected: str, hint: str = "", number: int = number) -> None:
            errors.append(ConfigError(path, number, field, problem, expected, hint))

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
        errors.append(
            ConfigError(path, 0, "file", "has no task", "at least one task line", f"write: {EXAMPLE}")
        )
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
