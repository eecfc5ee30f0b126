"""What a Python caller of TensorFlow Serving pays, with dl_inference or with tensorflow-serving-api.

  client_times.py ours|official ADDRESS    prints JSON: import_s, ready_s, memory_mb, and microseconds by size in bytes

Runs in the environment of the one or the other. The server has half_plus_two.
"""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

SIZES = (1 << 10, 64 << 10, 600 << 10)
SECONDS = 0.5


def median_us(run: Callable[[], object]) -> float:
    """Of one call, called again and again for a while."""
    took: list[float] = []
    end = time.perf_counter() + SECONDS
    run()
    while time.perf_counter() < end or len(took) < 5:
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e6


def ours(address: str) -> Any:
    """Encoding, decoding and calling with dl_inference."""
    # By name: only one of the two environments has it.
    calls = importlib.import_module("dl_inference.calls")
    client = importlib.import_module("dl_inference.client").Client(address)

    from libs.proto.predict import ModelSpec, encode_predict_response

    def functions(x: Any) -> tuple[Callable[[], object], Callable[[], object], Callable[[], object]]:
        call = calls.tensorflow("half_plus_two", {"x": x})
        answer = encode_predict_response(ModelSpec("half_plus_two"), {"y": x})
        return (
            lambda: calls.tensorflow("half_plus_two", {"x": x}),
            lambda: call.decode(answer),
            lambda: client.predict("half_plus_two", {"x": x}, task=1),
        )

    return functions


def official(address: str) -> Any:
    """The same with the official package, as its documentation does it."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    options = [("grpc.max_receive_message_length", -1)]
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address, options))

    def functions(x: Any) -> tuple[Callable[[], object], Callable[[], object], Callable[[], object]]:
        def request() -> Any:
            made = predict_pb2.PredictRequest()
            made.model_spec.name = "half_plus_two"
            made.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
            return made

        message = predict_pb2.PredictResponse()
        message.outputs["y"].CopyFrom(tf.make_tensor_proto(x))
        answer = message.SerializeToString()
        return (
            lambda: request().SerializeToString(),
            lambda: tf.make_ndarray(predict_pb2.PredictResponse.FromString(answer).outputs["y"]),
            lambda: tf.make_ndarray(stub.Predict(request(), timeout=30).outputs["y"]),
        )

    return functions


def main() -> None:
    which, address = sys.argv[1:]
    start = time.perf_counter()
    if which == "ours":
        importlib.import_module("dl_inference")
    else:
        importlib.import_module("tensorflow_serving.apis.prediction_service_pb2_grpc")
    imported = time.perf_counter()
    functions = {"ours": ours, "official": official}[which](address)
    ready = time.perf_counter()
    import numpy as np

    result: dict[str, Any] = {"import_s": imported - start, "ready_s": ready - start}
    for size in SIZES:
        x = np.linspace(0, 1, size // 4, dtype=np.float32).reshape(-1, 1)
        result[str(size)] = [median_us(function) for function in functions(x)]
    result["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
