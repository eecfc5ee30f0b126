"""A line in the log for a share of the requests: what came, what became of it, and how long it took.

Values stay out of the log: of arrays only dtype and shape, of texts and bytes the size, of tags the names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from libs.serving.call import Call
from libs.serving.errors import ServingError
from libs.serving.status import Code, grpc_code

log = logging.getLogger("services.torch_worker.requests")

# More named arrays, or tags, than these are counted.
_MOST_SHOWN = 8
_MOST_ID_CHARACTERS = 64


class RequestLog:
    """Chooses requests at random and writes their lines.

    Args:
        share: of the requests that are logged, above 0 to 1.
        random: numbers from 0 to 1.
    """

    def __init__(self, share: float, random: Callable[[], float]) -> None:
        self._share = share
        self._random = random

    def chooses(self) -> bool:
        """Whether the next request is logged."""
        return self._random() < self._share

    def write(
        self, call: Call, payload: Any, meta: dict[str, Any], seconds: float, outcome: bytes | BaseException
    ) -> None:
        """Write the line of a request that took so many seconds and ended with an answer's bytes or an error."""
        if isinstance(outcome, bytes):
            ending = f"OK {len(outcome)} bytes"
        elif isinstance(outcome, ServingError):
            ending = Code(grpc_code(outcome)).name
        else:
            ending = type(outcome).__name__
        identity = str(meta.get("puid") or meta.get("id") or "-")[:_MOST_ID_CHARACTERS]
        log.info(
            "%s id=%r input=%s tags=%s took %.3f ms: %s",
            call.method,
            identity,
            described(payload),
            _names(list(meta.get("tags") or ())),
            seconds * 1e3,
            ending,
        )


def described(payload: Any) -> str:
    """What a payload is, without its values."""
    if isinstance(payload, np.ndarray):
        return f"{payload.dtype}{list(payload.shape)}"
    if isinstance(payload, dict) and payload and all(isinstance(v, np.ndarray) for v in payload.values()):
        shown = [f"{name}:{described(payload[name])}" for name in list(payload)[:_MOST_SHOWN]]
        more = len(payload) - len(shown)
        return "{" + ", ".join(shown) + (f", {more} more" if more else "") + "}"
    if isinstance(payload, str):
        return f"text of {len(payload)} characters"
    if isinstance(payload, bytes):
        return f"{len(payload)} bytes"
    return f"JSON {type(payload).__name__}"


def _names(names: list[str]) -> str:
    shown = names[:_MOST_SHOWN]
    more = len(names) - len(shown)
    return "[" + ", ".join(map(repr, shown)) + (f", {more} more" if more else "") + "]"
