"""The one way in for every configuration: a node file, a `gateway.toml`, or both, become a table or all of their
errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.gateway import nodefile
from services.gateway.configuration_errors import ConfigError, ConfigInvalid
from services.gateway.table import Table

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


def load(sources: Sources, read: Read = Path.read_bytes) -> Loaded:
    """Reads and checks everything at once. Raises ConfigInvalid with every error found, and nothing else."""
    files = Files(read)
    path = sources.main
    data = files.get(path)
    if data is None:
        raise ConfigInvalid([files.error(path, "a node file")], [path])
    return Loaded(nodefile.parse(data, path), files.contents)


class Files:
    """Reads each file once and keeps what it read."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.contents: dict[Path, bytes] = {}
        self.problems: dict[Path, str] = {}

    def get(self, path: Path) -> bytes | None:
        """The file's bytes; None when it cannot be read, and `problems` says why."""
        if path not in self.contents and path not in self.problems:
            try:
                self.contents[path] = self._read(path)
            except OSError as error:
                self.problems[path] = error.strerror or str(error)
        return self.contents.get(path)

    def error(self, path: Path, expected: str) -> ConfigError:
        return ConfigError(path, 0, "file", f"cannot be read: {self.problems[path]}", expected)
