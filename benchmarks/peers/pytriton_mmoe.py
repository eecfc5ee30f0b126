"""The mmoe model on Triton by nvidia-pytriton, batched by Triton.   pytriton_mmoe.py GRPC_PORT HTTP_PORT"""

from __future__ import annotations

import os
import sys
import sysconfig

import bare_mmoe
import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main(grpc_port: int, http_port: int) -> None:
    # Triton's own Python process loads libpython by name; it has to be that of the standard library which it finds.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    call = bare_mmoe.load()

    @batch  # type: ignore[untyped-decorator]
    def infer(x: np.ndarray) -> list[np.ndarray]:
        return [call(x)]

    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        http_address="127.0.0.1",
        http_port=http_port,
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="mmoe",
            infer_func=infer,
            inputs=[Tensor(name="x", dtype=np.float32, shape=(bare_mmoe.FEATURES,))],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(bare_mmoe.HEADS,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
