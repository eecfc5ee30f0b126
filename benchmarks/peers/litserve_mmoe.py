"""The mmoe model on LitServe, raw float32 both ways.   litserve_mmoe.py PORT"""

# Annotations are not postponed here: LitServe hands that of decode_request to FastAPI as it stands.
import sys
from typing import Annotated, Any

import bare_mmoe
import litserve
import numpy as np
from fastapi import Body, Response


class Mmoe(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self._call: Any = bare_mmoe.load()

    # Annotated so that FastAPI hands the body through: LitServe would parse it as JSON.
    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> np.ndarray:
        return bare_mmoe.rows_of(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._call(x)  # type: ignore[no-any-return]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = Mmoe(max_batch_size=64, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=2,
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )
