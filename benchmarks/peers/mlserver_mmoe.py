"""The mmoe model as an MLServer runtime; MLServer batches around `predict`."""

from __future__ import annotations

from typing import Any

import bare_mmoe
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Mmoe(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self._call: Any = bare_mmoe.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answers = self._call(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("y", answers.astype("float32"))]
        )
