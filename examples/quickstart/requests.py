"""The quickstart's requests, made with plain grpcio stubs, and what their answers mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from examples.tensorflow.textcnn.tokens import SEQUENCE_LENGTH, UNKNOWN_LABEL, cells
from libs.proto.messages import DataType, PredictRequest, SeldonMessage, TensorProto, TensorShapeProto
from libs.proto.services import WpaiDLPredictOnlineServiceStub

DIGITS_TASK, MMOE_TASK = 39, 111
TEXTCNN, HALF_PLUS_TWO = "textcnn-69", "half_plus_two-70"
FEATURES = 138
DEADLINE_S = 10.0


@dataclass(frozen=True)
class Answer:
    """One answered call: what was asked, what came back, who served it, and whether it is what was expected."""

    model: str
    asked: str
    said: str
    instance: str
    right: bool


class Caller:
    """Calls the gateway's four example models over one channel."""

    def __init__(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> None:
        self.channel = grpc.insecure_channel(address, options)
        self._stub: Any = WpaiDLPredictOnlineServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def _call(self, method: str, request: Any) -> tuple[Any, str]:
        """Returns the response and the address of the instance that gave it."""
        response, call = getattr(self._stub, method).with_call(request, timeout=DEADLINE_S)
        return response, dict(call.initial_metadata()).get("x-dl-instance", "?")

    def digits(self, picture: bytes) -> tuple[int, float, str]:
        """Returns the digit in an encoded picture, its probability, and the instance."""
        request = SeldonMessage(binData=picture)
        request.meta.tags["taskId"].number_value = DIGITS_TASK
        response, instance = self._call("PytorchPredict", request)
        digit, probability = response.data.tensor.values
        return int(digit), probability, instance

    def mmoe(self, features: np.ndarray) -> tuple[list[float], str]:
        """Returns all values of both heads for rows of 138 features, and the instance."""
        request = SeldonMessage()
        request.meta.tags["taskId"].number_value = MMOE_TASK
        request.data.tensor.shape.extend(features.shape)
        request.data.tensor.values.extend(features.ravel())
        response, instance = self._call("PytorchPredict", request)
        return list(response.data.tensor.values), instance

    def textcnn(self, text: str) -> tuple[list[str], list[float], str]:
        """Returns the three best intents of an utterance, their probabilities, and the instance."""
        request = PredictRequest()
        request.model_spec.name = TEXTCNN
        request.model_spec.signature_name = "prediction"
        request.inputs["sentence"].CopyFrom(
            TensorProto(
                dtype=DataType.DT_STRING, tensor_shape=_shape(1, SEQUENCE_LENGTH), string_val=cells([text])
            )
        )
        request.inputs["label"].CopyFrom(
            TensorProto(dtype=DataType.DT_STRING, tensor_shape=_shape(1), string_val=[UNKNOWN_LABEL.encode()])
        )
        response, instance = self._call("Predict", request)
        return (
            [value.decode() for value in response.outputs["output"].string_val],
            _floats(response.outputs["score"]),
            instance,
        )

    def half_plus_two(self, values: Sequence[float]) -> tuple[list[float], str]:
        """Returns x / 2 + 2 for each value, and the instance."""
        request = PredictRequest()
        request.model_spec.name = HALF_PLUS_TWO
        request.inputs["x"].CopyFrom(
            TensorProto(dtype=DataType.DT_FLOAT, tensor_shape=_shape(len(values), 1), float_val=values)
        )
        response, instance = self._call("Predict", request)
        return _floats(response.outputs["y"]), instance


def _shape(*sizes: int) -> Any:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _floats(tensor: Any) -> list[float]:
    """The values of a DT_FLOAT tensor, in whichever of its two forms the server chose."""
    if tensor.tensor_content:
        return [float(value) for value in np.frombuffer(tensor.tensor_content, "<f4")]
    return list(tensor.float_val)


def rounds(caller: Caller, models: Path) -> Sequence[Callable[[], Answer]]:
    """The quickstart's calls, each a function to run. `expected.json` of a model holds what it said when it was loaded
    directly, without any server."""
    digits = json.loads((models / "digits" / "expected.json").read_text())
    textcnn = json.loads((models / "textcnn" / "expected.json").read_text())
    mmoe = json.loads((models / "mmoe" / "expected.json").read_text())
    calls: list[Callable[[], Answer]] = []

    def ask_digits(name: str, digit: int, probability: float) -> Answer:
        got, got_probability, instance = caller.digits((models / "digits" / "samples" / name).read_bytes())
        right = got == digit and abs(got_probability - probability) < 1e-3
        return Answer("digits", name, f"{got} ({got_probability:.1%})", instance, right)

    def ask_textcnn(text: str, outputs: list[str], scores: list[float]) -> Answer:
        got, got_scores, instance = caller.textcnn(text)
        right = got == outputs and bool(np.allclose(got_scores, scores, atol=1e-4))
        return Answer("textcnn", text, f"{got[0]} ({got_scores[0]:.1%})", instance, right)

    def ask_mmoe(row: int) -> Answer:
        features = np.asarray(mmoe["features"][row], dtype=np.float64).reshape(1, FEATURES)
        got, instance = caller.mmoe(features)
        right = bool(np.allclose(got, mmoe["outputs"][row], atol=1e-4))
        said = ", ".join(f"{value:.3f}" for value in got)
        return Answer("mmoe", f"{FEATURES} features, row {row}", said, instance, right)

    def ask_half_plus_two(value: float) -> Answer:
        (got,), instance = caller.half_plus_two([value])
        return Answer("half_plus_two", f"{value:g}", f"{got:g}", instance, got == value / 2 + 2)

    calls += [partial(ask_digits, name, *answer) for name, answer in sorted(digits.items())]
    calls += [partial(ask_mmoe, row) for row in range(len(mmoe["features"]))]
    calls += [partial(ask_textcnn, text, said["output"], said["score"]) for text, said in textcnn.items()]
    calls += [partial(ask_half_plus_two, value) for value in (1.0, 2.0, 5.0, -4.0)]
    return calls
