"""What a model answers besides its output, where it does: Seldon-style classes have tags and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Answer:
    """A result with what belongs into the answer's meta. Not a dataclass: those are answers made of their fields.

    Attributes:
        payload: the result itself: array, list, str, bytes, dict.
        tags: of the answer, in place of the request's (which they contain); None: the request's.
        metrics: the model's, after the request's: {"key": str, "type": "COUNTER"|"GAUGE"|"TIMER", "value": number,
            "tags": {str: str}}, the tags optional.
        names: of the columns; None: what the folder says, else t:0, t:1 ...
    """

    __slots__ = ("metrics", "names", "payload", "tags")

    def __init__(
        self,
        payload: Any,
        tags: Mapping[str, Any] | None = None,
        metrics: Sequence[Mapping[str, Any]] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        self.payload = payload
        self.tags = tags
        self.metrics = metrics
        self.names = None if names is None else tuple(names)

    def with_payload(self, payload: Any) -> Answer:
        """The same with another result."""
        return Answer(payload, self.tags, self.metrics, self.names)
