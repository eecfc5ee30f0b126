"""Microseconds of each stage of a request inside the worker, by protocol, for one tensor of 1x3x224x224 float32;
printed as JSON. Runs by path in the worker's environment.   stage_times.py CALLS"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libs.proto.messages import DataType, ModelInferRequest, SeldonMessage
from libs.serving.frames import frame, unframe
from services.torch_worker.execution.tensors import join, plain
from services.torch_worker.protocols.kserve_grpc import encode_answer as encode_kserve
from services.torch_worker.protocols.kserve_patterns import FormDecoder
from services.torch_worker.protocols.kserve_signature import Signature
from services.torch_worker.protocols.seldon_answers import encode_answer as encode_seldon
from services.torch_worker.protocols.seldon_patterns import AnswerEncoder, RequestDecoder

SHAPE = (1, 3, 224, 224)
STAGES = ("unframe", "decode", "join", "plain", "encode", "frame")

Decode = Callable[[bytes], tuple[Any, np.ndarray[Any, Any]]]
Encode = Callable[[Any, Any], bytes]


def protocols(values: np.ndarray[Any, Any]) -> dict[str, tuple[bytes, Decode, Encode]]:
    """Message, decoder and encoder by protocol."""
    tensor, tftensor, infer = SeldonMessage(), SeldonMessage(), ModelInferRequest(model_name="m")
    tensor.data.tensor.shape.extend(values.shape)
    tensor.data.tensor.values.extend(values.ravel())
    tftensor.data.tftensor.dtype = DataType.DT_FLOAT
    for size in values.shape:
        tftensor.data.tftensor.tensor_shape.dim.add(size=size)
    tftensor.data.tftensor.tensor_content = values.tobytes()
    infer.inputs.add(name="x", datatype="FP32", shape=values.shape)
    infer.raw_input_contents.append(values.tobytes())
    requests, forms, answers, signature = RequestDecoder(), FormDecoder(), AnswerEncoder(), Signature()

    def decode_seldon(body: bytes) -> tuple[Any, np.ndarray[Any, Any]]:
        request = requests.decode(body)
        return request, request.payload

    def answer_seldon(request: Any, result: Any) -> bytes:
        return encode_seldon(request, result, None, answers)

    def answer_kserve(form: Any, result: Any) -> bytes:
        return encode_kserve(form, signature, "1", result)

    return {
        "Seldon tensor": (tensor.SerializeToString(), decode_seldon, answer_seldon),
        "Seldon tftensor": (tftensor.SerializeToString(), decode_seldon, answer_seldon),
        "KServe raw": (infer.SerializeToString(), forms.decode, answer_kserve),
    }


def times(message: bytes, decode: Decode, encode: Encode, calls: int) -> dict[str, float]:
    """Median microseconds by stage."""
    body = frame(message)
    output = torch.zeros(1, 1000)
    taken: dict[str, list[float]] = {stage: [] for stage in STAGES}
    clock = time.perf_counter
    for _ in range(calls):
        marks = [clock()]
        unframed = unframe(body, None, 10 << 20)
        marks.append(clock())
        known, payload = decode(unframed)
        marks.append(clock())
        join([payload], np.dtype(np.float32))
        marks.append(clock())
        result = plain(output)
        marks.append(clock())
        answer = encode(known, result)
        marks.append(clock())
        frame(answer)
        marks.append(clock())
        for stage, start, end in zip(STAGES, marks, marks[1:], strict=False):
            taken[stage].append(end - start)
    return {stage: statistics.median(found[calls // 10 :]) * 1e6 for stage, found in taken.items()}


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    build = importlib.import_module("convnets").build
    calls = int(sys.argv[1])
    values = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    rows = {}
    for name, (message, decode, encode) in protocols(values).items():
        rows[name] = {"bytes": len(message), **times(message, decode, encode, calls)}
    model, x = build("resnet50"), torch.from_numpy(values)
    model_us = []
    with torch.inference_mode():
        for _ in range(8):
            start = time.perf_counter()
            model(x)
            model_us.append((time.perf_counter() - start) * 1e6)
    print(json.dumps({"stages": rows, "model_us": min(model_us), "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
