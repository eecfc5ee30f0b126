"""Reads the configuration again when its files change, and never lets a bad edit replace a good table."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.gateway import configuration
from services.gateway.configuration import Loaded, Sources
from services.gateway.configuration_errors import ConfigInvalid
from services.gateway.listener_files import log_problem
from services.gateway.watch import Contents

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ReloadState:
    """The configuration's story, for the status page."""

    version: int = 0
    loaded_at: float = 0.0  # seconds since the epoch
    rejected: int = 0
    errors: list[str] = field(
        default_factory=list
    )  # of the files as they are now; empty when they are in use


class Reloader:
    """The configuration's files, as they were last read, and what became of them."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.state = ReloadState()
        # Of every file that the last attempt looked at, also of one that failed: an edit of any may mend it.
        self.seen: dict[Path, bytes | None] = {
            path: None for path in (sources.nodes, sources.config) if path is not None
        }

    def load(self, contents: Contents | None = None) -> Loaded | None:
        """The configuration if all of it is right; else None, and `state.errors` and the log say what is wrong.

        `contents` are files that were read already.
        """
        given = contents or {}
        seen: dict[Path, bytes | None] = {}

        def read(path: Path) -> bytes:
            data = seen[path] = given.get(path)
            if data is None:
                data = seen[path] = path.read_bytes()
            return data

        try:
            loaded = configuration.load(self._sources, read, log_problem=log_problem)
        except ConfigInvalid as invalid:
            self.state.errors = [error.render() for error in invalid.errors]
            self.state.rejected += 1
            for line in self.state.errors:
                log.error("%s", line)
            return None
        finally:
            self.seen = seen or self.seen
        return loaded

    def recall(self, files: Mapping[Path, bytes]) -> Loaded | None:
        """The configuration that files with these contents are. The ones on the disk stay what `seen` and
        `state.errors` say of them."""

        def read(path: Path) -> bytes:
            if path not in files:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            return files[path]

        try:
            return configuration.load(self._sources, read)
        except ConfigInvalid as invalid:
            log.error("the configuration that was in use does not load again: %s", invalid.errors[0].render())
            return None

    def used(self, loaded: Loaded) -> None:
        """A configuration was put to work."""
        self.state.version += 1
        self.state.loaded_at = time.time()
        log.info("configuration version %d: %d tasks", self.state.version, len(loaded.table.tasks))
