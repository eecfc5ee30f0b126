"""Which versions of the model are loaded, and which of them answers."""

from __future__ import annotations

from libs.serving.errors import NotFound, Unavailable
from services.torch_worker.serving.servable import Servable


class Repository:
    """The versions of one model. Used on the event loop's thread.

    Attributes:
        name: the model's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._default: Servable | None = None

    def default(self) -> Servable:
        """The version that answers requests that name none.

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
            Unavailable: none is loaded yet.
        """
        if name != self.name:
            raise NotFound(f"no model {name!r} is served here; the model is {self.name!r}")
        if version not in ("", "1"):
            raise NotFound(f"model {name!r} has no version {version!r} here; it has: 1")
        return self.default()

    def set(self, servable: Servable) -> None:
        """Make a version the default."""
        self._default = servable

    async def close(self, drain_deadline_s: float) -> None:
        """Let what is queued run until the deadline, then fail the rest."""
        if self._default is not None:
            await self._default.close(drain_deadline_s)
