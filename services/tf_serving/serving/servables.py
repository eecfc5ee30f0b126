"""Which models and versions this server has, and finding the one that a request means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from libs.serving.errors import InvalidArgument, NotFound
from services.tf_serving.execution.engine import Engine


class State(IntEnum):
    """ModelVersionStatus.State of tensorflow_serving/apis/get_model_status.proto."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class Servable:
    """One loaded version of one model."""

    name: str
    version: int
    engine: Engine
    state: State = State.AVAILABLE


class Servables:
    """An immutable snapshot of what is loaded; a change makes a new one."""

    def __init__(self, servables: Iterable[Servable]) -> None:
        by_name: dict[str, dict[int, Servable]] = {}
        for servable in servables:
            by_name.setdefault(servable.name, {})[servable.version] = servable
        self._by_name: Mapping[str, Mapping[int, Servable]] = by_name
        self._latest = {name: versions[max(versions)] for name, versions in by_name.items()}

    def __iter__(self) -> Any:
        return (servable for versions in self._by_name.values() for servable in versions.values())

    def find(self, spec: Any) -> Servable:
        """The servable of a ModelSpec message.

        Raises:
            InvalidArgument: no name, or a version label (none are configured).
            NotFound: no such model or version, with TensorFlow Serving's text.
        """
        name = spec.name
        if not name:
            raise InvalidArgument("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            latest = self._latest.get(name)
            if latest is None:
                raise NotFound(f"Servable not found for request: Latest({name})")
            return latest
        if choice == "version_label":
            raise InvalidArgument(f"Unrecognized servable version label: {spec.version_label}")
        version = spec.version.value
        found = self._by_name.get(name, {}).get(version)
        if found is None:
            raise NotFound(f"Servable not found for request: Specific({name}, {version})")
        return found

    def states(self, spec: Any) -> list[tuple[int, State]]:
        """The (version, state) pairs of a ModelSpec message, newest first: one when it names a version,
        else all.

        Raises:
            NotFound: no such model or version, with TensorFlow Serving's text.
        """
        name = spec.name
        versions = self._by_name.get(name, {})
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            raise InvalidArgument(f"Unrecognized servable version label: {spec.version_label}")
        if choice == "version":
            found = versions.get(spec.version.value)
            if found is None:
                raise NotFound(f"Could not find version {spec.version.value} of model {name}")
            return [(found.version, found.state)]
        if not versions:
            raise NotFound(f"Could not find any versions of model {name}")
        return [(version, versions[version].state) for version in sorted(versions, reverse=True)]
