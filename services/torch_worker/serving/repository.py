"""Which versions of the model are loaded, and which of them answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from libs.serving.errors import NotFound, Unavailable
from libs.serving.versions import State, VersionState
from services.torch_worker.serving.servable import Servable


class Repository:
    """The versions of one model. Used on the event loop's thread.

    Attributes:
        name: the model's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._default: Servable | None = None
        self._loaded: dict[int, Servable] = {}
        self._told: Callable[[], Sequence[VersionState]] | None = None

    def default(self) -> Servable:
        """The version that answers requests that name none: the highest.

        Raises:
            Unavailable: none is loaded yet.
        """
        if self._default is None:
            raise Unavailable("the model is still loading")
        return self._default

    def find(self, name: str, version: str = "") -> Servable:
        """The version that a request names; an empty version is the default.

        Raises:
            NotFound: there is no such model or version here; says which there are.
            Unavailable: it is not loaded yet, or could not be; says why.
        """
        if name != self.name:
            raise NotFound(f"no model {name!r} is served here; the model is {self.name!r}")
        if version == "":
            return self.default()
        number = int(version) if version.isascii() and version.isdigit() and len(version) < 20 else -1
        servable = self._loaded.get(number)
        if servable is not None:
            return servable
        for state in self.states():
            if state.number == number and state.state in (State.START, State.LOADING):
                raise Unavailable(f"version {number} of model {name!r} is not loaded yet")
            if state.number == number and state.error:
                raise Unavailable(f"version {number} of model {name!r} could not be loaded: {state.error}")
        has = ", ".join(map(str, self.versions())) or "none"
        raise NotFound(f"model {name!r} has no version {version!r} here; it has: {has}")

    def versions(self) -> list[int]:
        """Numbers of the versions that answer, ascending; the last is the default."""
        return sorted(self._loaded)

    def states(self) -> Sequence[VersionState]:
        """Every version that is known, ascending, also those that are being loaded or could not be."""
        if self._told is not None:
            return self._told()
        return [VersionState(number, State.AVAILABLE) for number in self.versions()]

    def tell_states(self, told: Callable[[], Sequence[VersionState]]) -> None:
        """Make `states` answer what somebody knows who knows more than which are loaded."""
        self._told = told

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a model."""
        return sum(servable.queued_rows for servable in self._loaded.values())

    def set(self, servable: Servable, number: int = 1) -> Servable | None:
        """Give a version's requests to servable from now on; answers what had them before, for the caller to close."""
        servable.version = str(number)
        before = self._loaded.get(number)
        self._loaded[number] = servable
        self._default = self._loaded[max(self._loaded)]
        return before

    def remove(self, number: int) -> Servable:
        """Give a version no more requests; answers it, for the caller to close."""
        servable = self._loaded.pop(number)
        self._default = self._loaded[max(self._loaded)] if self._loaded else None
        return servable

    async def close(self, drain_deadline_s: float) -> None:
        """Let what is queued run until the deadline, then fail the rest."""
        await asyncio.gather(*(servable.close(drain_deadline_s) for servable in self._loaded.values()))
