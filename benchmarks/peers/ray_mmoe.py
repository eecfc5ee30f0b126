"""The mmoe model on Ray Serve, raw float32 both ways.   ray_mmoe.py PORT"""

from __future__ import annotations

import os
import signal
import sys

import bare_mmoe
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Mmoe:
    def __init__(self) -> None:
        self._call = bare_mmoe.load()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0)
    async def predict(self, rows: list[bytes]) -> list[bytes]:
        return [answer.tobytes() for answer in self._call(bare_mmoe.rows_of(rows))]

    async def __call__(self, request: Request) -> Response:
        return Response(await self.predict(await request.body()), media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=2, _temp_dir=os.environ["TMPDIR"])
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(sys.argv[1])},
        logging_config={"enable_access_log": False},
    )
    serve.run(Mmoe.bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
