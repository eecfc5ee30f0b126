"""The mmoe model as a BentoML service: `bentoml serve bentoml_mmoe:Mmoe`. Rows travel as base64 of float32, the
shortest that its JSON can carry; BentoML joins and splits lists when it batches."""

from __future__ import annotations

import base64

import bare_mmoe
import bentoml


@bentoml.service(
    workers=2,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    traffic={"timeout": 30},
)
class Mmoe:
    def __init__(self) -> None:
        self._call = bare_mmoe.load()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)  # type: ignore[misc]
    def predict(self, rows: list[str]) -> list[str]:
        answers = self._call(bare_mmoe.rows_of([base64.b64decode(row) for row in rows]))
        return [base64.b64encode(answer.tobytes()).decode() for answer in answers]
