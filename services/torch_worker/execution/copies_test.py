"""How often a large tensor is copied on its way from the wire to the model."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from libs.proto.messages import DataType, ModelInferRequest, SeldonMessage
from libs.serving.frames import frame, unframe
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.engine import Engine
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.protocols.kserve_patterns import FormDecoder
from services.torch_worker.protocols.seldon_patterns import RequestDecoder

SHAPE = (1, 3, 224, 224)
VALUES = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
# What Python objects of a request take besides its tensors.
SLACK = 40_000


class Corner(torch.nn.Module):
    """Answers one number of each picture: whatever is copied, it is not the model's doing. Like most, it does not take
    float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not torch.float32:
            raise RuntimeError("expected float32")
        return x[:, 0, 0, :1] * self.weight


class TensorCopies(TorchDispatchMode):
    """Counts the operators of torch that make or fill tensors as large as a picture."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() >= VALUES.size:
            name = str(func)
            if "copy_" in name or not any(_shares(x, result) for x in args):
                self.seen.append(name)
        return result


def _shares(x: Any, result: torch.Tensor) -> bool:
    return (
        isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() == result.untyped_storage().data_ptr()
    )


def seldon(kind: str) -> bytes:
    message = SeldonMessage()
    if kind == "tensor":
        message.data.tensor.shape.extend(SHAPE)
        message.data.tensor.values.extend(VALUES.ravel())
    else:
        message.data.tftensor.dtype = DataType.DT_FLOAT
        for size in SHAPE:
            message.data.tftensor.tensor_shape.dim.add(size=size)
        message.data.tftensor.tensor_content = VALUES.tobytes()
    return message.SerializeToString()


def kserve() -> bytes:
    request = ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=SHAPE)
    request.raw_input_contents.append(VALUES.tobytes())
    return request.SerializeToString()


def seldon_decoder() -> Callable[[bytes], Any]:
    decoder = RequestDecoder()
    return lambda body: decoder.decode(body).payload


def kserve_decoder() -> Callable[[bytes], Any]:
    decoder = FormDecoder()
    return lambda body: decoder.decode(body)[1]


CASES = {
    "data.tensor": (seldon("tensor"), seldon_decoder),
    "data.tftensor": (seldon("tftensor"), seldon_decoder),
    "KServe raw": (kserve(), kserve_decoder),
}


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("kind", CASES)
def test_a_picture_is_copied_once_out_of_its_frame_and_once_into_the_batch(kind: str, together: int) -> None:
    message, decoder = CASES[kind]
    caller = ModelCaller(Corner().eval(), torch.device("cpu"), None)
    engine = Engine([caller], Hooks(), folder=Path(__file__).parent, batchable=True)
    decode = decoder()

    def serve(bodies: list[bytes]) -> list[Any]:
        messages = [unframe(body, None, 10 << 20) for body in bodies]
        return engine.run([engine.prepare(decode(body), {"tags": {}}) for body in messages])

    bodies = [bytes(bytearray(frame(message))) for _ in range(together)]
    with TensorCopies():
        serve(bodies)  # learns the message's form, and that the model wants float32
    copies = TensorCopies()
    tracemalloc.start()
    try:
        with copies:
            answers = serve(bodies)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(answers) == together
    np.testing.assert_array_equal(answers[0], VALUES[:, 0, 0, :1])
    assert copies.seen == [], "torch copies nothing: numpy joins and converts in one go"
    out_of_frames, into_batch = together * len(message), together * VALUES.nbytes
    assert out_of_frames + into_batch <= peak < out_of_frames + into_batch + SLACK
