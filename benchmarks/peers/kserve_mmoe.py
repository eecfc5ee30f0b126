"""The mmoe model on KServe's SDK.   kserve_mmoe.py --grpc_port PORT --http_port PORT"""

from __future__ import annotations

from typing import Any

import bare_mmoe
import kserve
import numpy as np


class Mmoe(kserve.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__("mmoe")
        self._call: Any = None
        self.ready = True

    async def predict(
        self, payload: kserve.InferRequest, headers: Any = None, response_headers: Any = None
    ) -> kserve.InferResponse:
        if self._call is None:  # here, since with several processes the object is pickled on its way to them
            self._call = bare_mmoe.load()
        answers = self._call(np.array(payload.inputs[0].as_numpy(), dtype=np.float32))
        output = kserve.InferOutput("y", list(answers.shape), "FP32")
        output.set_data_from_numpy(answers, binary_data=True)
        return kserve.InferResponse(payload.id or "0", "mmoe", [output], use_binary_outputs=True)


if __name__ == "__main__":
    kserve.ModelServer(enable_latency_logging=False).start([Mmoe()])
