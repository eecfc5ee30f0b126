"""TorchServe's handler for the mmoe model: raw float32 in, raw float32 out, one call of the model a batch."""

from __future__ import annotations

from typing import Any

import bare_mmoe

_model: Any = None


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """TorchServe calls this once without data when the worker starts, then with the requests of a batch."""
    global _model
    if _model is None:
        _model = bare_mmoe.load()
    if not data:
        return None
    answers = _model(bare_mmoe.rows_of([bytes(request.get("body") or request["data"]) for request in data]))
    return [answer.tobytes() for answer in answers]
