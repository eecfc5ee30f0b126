"""The server that a user would write in Python: grpc.aio and tf.saved_model, with the official stubs.

  tf_aio.py FOLDER PORT WHERE    FOLDER: a SavedModel; WHERE: `loop` or `thread`, where the model runs
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

THREADS = 1


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """Predict alone."""

    def __init__(self, folder: str, where: str) -> None:
        self._model = tf.saved_model.load(folder)
        self._in_loop = where == "loop"

    async def Predict(self, request: Any, context: grpc.aio.ServicerContext) -> Any:  # noqa: N802
        """PredictRequest to PredictResponse."""
        if self._in_loop:
            return self._predict(request)
        return await asyncio.to_thread(self._predict, request)

    def _predict(self, request: Any) -> Any:
        name = request.model_spec.signature_name or "serving_default"
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        outputs = self._model.signatures[name](**inputs)
        response = predict_pb2.PredictResponse()
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response


async def serve(folder: str, port: int, where: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    server = grpc.aio.server()
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(folder, where), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
