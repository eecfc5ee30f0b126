"""The one way in for every configuration: a node file, a `gateway.toml`, or both, become a table or all of their
errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from libs.balancing.nodefile import NodeLine
from services.gateway import configfile, nodefile
from services.gateway.configfile import ConfigFile
from services.gateway.configfile_edge import STDOUT
from services.gateway.configfile_lines import Lines
from services.gateway.configfile_section import Errors
from services.gateway.configuration_errors import ConfigError, ConfigInvalid
from services.gateway.configuration_merge import check_clients, merge
from services.gateway.listener_files import check_files
from services.gateway.table import LogWhen, Table

Read = Callable[[Path], bytes]  # raises OSError


@dataclass(frozen=True, slots=True)
class Sources:
    """The files that were given; at least one."""

    nodes: Path | None = None
    config: Path | None = None

    @property
    def main(self) -> Path:
        """The file to name where only one can be."""
        path = self.config or self.nodes
        if path is None:
            raise ValueError("no configuration was given")
        return path


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that holds together, and every file that it came from, as read: one that changes afterwards is
    a new configuration."""

    table: Table
    files: Mapping[Path, bytes]


def load(
    sources: Sources, read: Read = Path.read_bytes, *, log_problem: Callable[[Path], str] | None = None
) -> Loaded:
    """Reads and checks everything at once. Raises ConfigInvalid with every error found, and nothing else.

    `log_problem` says why no access log can be written to a path; without it nobody looks.
    """
    files = Files(read)
    errors: list[ConfigError] = []
    config = _config(sources, files)
    nodes = sources.nodes or config.nodes
    if sources.nodes is not None and config.nodes not in (None, sources.nodes.absolute()):
        config.errors.add(("nodes",), "is given by --nodes too", "one node file", "leave out one of the two")
    lines: list[NodeLine] = []
    if nodes is not None:
        data = files.get(nodes)
        if data is not None:
            lines, errors = nodefile.read(data, nodes)
        elif sources.nodes is not None:
            errors.append(ConfigError(nodes, 0, "file", files.problem(nodes), "a node file"))
        else:
            config.errors.add(("nodes",), f"{nodes}: {files.problem(nodes)}", "a node file")
    table = merge(config, nodes, lines, whole=config.readable and not errors)
    for keys, path in config.errors.files:
        if files.get(path) is None:
            config.errors.add(keys, f"{path}: {files.problem(path)}", "a file that can be read")
    log = table.edge.access_log
    if log_problem is not None and log.when != LogWhen.OFF and log.path != STDOUT:
        problem = log_problem(Path(log.path))
        if problem:
            config.errors.add(("access_log", "path"), f"{log.path} {problem}", "a file that can be written")
    check_clients(config, table, files.contents)
    config.errors.found.sort(key=lambda error: error.line)
    errors = config.errors.found + errors + check_files(table.edge, table.pools.values(), files.contents)
    if errors:
        raise ConfigInvalid(errors, files.seen)
    return Loaded(table, files.contents)


def _config(sources: Sources, files: Files) -> ConfigFile:
    if sources.config is None:
        return ConfigFile(Errors(sources.main, Lines("")))
    data = files.get(sources.config)
    if data is not None:
        return configfile.read(data, sources.config)
    nothing = ConfigFile(Errors(sources.config, Lines("")), readable=False)
    nothing.errors.add((), files.problem(sources.config), "a gateway.toml")
    return nothing


class Files:
    """Reads each file once and keeps what it read."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._problems: dict[Path, str] = {}
        self.contents: dict[Path, bytes] = {}

    @property
    def seen(self) -> frozenset[Path]:
        """Every file that was looked at, whether it could be read or not."""
        return frozenset(self.contents) | frozenset(self._problems)

    def get(self, path: Path) -> bytes | None:
        """The file's bytes; None when it cannot be read, and `problem` says why."""
        if path not in self.contents and path not in self._problems:
            try:
                self.contents[path] = self._read(path)
            except OSError as error:
                self._problems[path] = error.strerror or str(error)
        return self.contents.get(path)

    def problem(self, path: Path) -> str:
        return f"cannot be read: {self._problems[path]}"
