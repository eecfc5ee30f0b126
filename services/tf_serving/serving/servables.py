"""Which models and versions answer, and finding the one that a request means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libs.serving.errors import InvalidArgument, NotFound
from libs.serving.versions import State, VersionState
from services.tf_serving.execution.engine import Engine

Labels = Mapping[str, Mapping[str, int]]
"""Version numbers by model and label."""


@dataclass(frozen=True, slots=True, eq=False)
class Servable:
    """One loaded version of one model."""

    name: str
    version: int
    engine: Engine


class Servables:
    """What is loaded, as requests see it. Used on the event loop's thread: between two awaits nothing changes.

    Attributes:
        labels: names of versions, which requests may give in place of their numbers.
    """

    def __init__(self, servables: Iterable[Servable] = ()) -> None:
        self._by_name: dict[str, dict[int, Servable]] = {}
        self._latest: dict[str, Servable] = {}
        self._told: Callable[[str], Sequence[VersionState]] | None = None
        self.labels: Labels = {}
        for servable in servables:
            self.set(servable)

    def __iter__(self) -> Iterator[Servable]:
        return (servable for versions in self._by_name.values() for servable in versions.values())

    def set(self, servable: Servable) -> Servable | None:
        """Give requests for its model and version to the servable; answers the one that had them before."""
        versions = self._by_name.setdefault(servable.name, {})
        before = versions.get(servable.version)
        versions[servable.version] = servable
        self._latest[servable.name] = versions[max(versions)]
        return before

    def discard(self, servable: Servable) -> None:
        """Give the servable no more requests, if it has any."""
        versions = self._by_name.get(servable.name, {})
        if versions.get(servable.version) is not servable:
            return
        del versions[servable.version]
        if versions:
            self._latest[servable.name] = versions[max(versions)]
        else:
            del self._by_name[servable.name], self._latest[servable.name]

    def versions(self, name: str) -> list[int]:
        """Versions of a model that answer, ascending."""
        return sorted(self._by_name.get(name, ()))

    def find(self, spec: Any) -> Servable:
        """The servable of a ModelSpec message: of the version or label that it names, else the highest version.

        Raises:
            InvalidArgument: no name, or a label that no version has.
            NotFound: no such model or version, with TensorFlow Serving's text.
        """
        name = spec.name
        if not name:
            raise InvalidArgument("ModelSpec has no name specified.")
        version = self._version(spec)
        if version is None:
            latest = self._latest.get(name)
            if latest is None:
                raise NotFound(f"Servable not found for request: Latest({name})")
            return latest
        found = self._by_name.get(name, {}).get(version)
        if found is None:
            raise NotFound(f"Servable not found for request: Specific({name}, {version})")
        return found

    def states(self, spec: Any) -> list[VersionState]:
        """The states of the versions that a ModelSpec message means, newest first: one when it names a version
        or a label, else all.

        Raises:
            InvalidArgument: no version has that label.
            NotFound: no such model or version, with TensorFlow Serving's text.
        """
        states = {state.number: state for state in self._states(spec.name)}
        version = self._version(spec)
        if version is not None:
            if version not in states:
                raise NotFound(f"Could not find version {version} of model {spec.name}")
            return [states[version]]
        if not states:
            raise NotFound(f"Could not find any versions of model {spec.name}")
        return [states[number] for number in sorted(states, reverse=True)]

    def tell_states(self, told: Callable[[str], Sequence[VersionState]]) -> None:
        """Make `states` answer, by a model's name, what somebody knows who knows more than what is loaded."""
        self._told = told

    def _states(self, name: str) -> Sequence[VersionState]:
        if self._told is not None:
            return self._told(name)
        return [VersionState(number, State.AVAILABLE) for number in self.versions(name)]

    def _version(self, spec: Any) -> int | None:
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            return None
        if choice == "version":
            version: int = spec.version.value
            return version
        labelled = self.labels.get(spec.name, {}).get(spec.version_label)
        if labelled is None:
            raise InvalidArgument(f"Unrecognized servable version label: {spec.version_label}")
        return labelled
