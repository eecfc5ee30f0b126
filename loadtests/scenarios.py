"""What is called: every method of the service with the example models. Requests are made ahead; a call sends bytes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dl_inference import calls

from examples.tensorflow.textcnn.tokens import UNKNOWN_LABEL, tokens

SERVICE = "/com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineService"
FEATURES = 138  # of the mmoe example
ECHO = "/loadtests.Echo/Echo"


class ScenarioError(ValueError):
    """A scenario cannot be made; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of call.

    Attributes:
        path: of the gateway's method.
        direct: of the model server's own.
        body: the request message.
        check: reads an answer and raises where it is none; it is not part of what is measured.
    """

    name: str
    model: str
    path: str
    direct: str
    body: bytes
    check: Callable[[bytes], object]


def make(names: list[str], models: Path) -> list[Scenario]:
    """Scenarios by name.

    Args:
        models: the example models, for their sample inputs.

    Raises:
        ScenarioError: there is no such scenario, or a sample is missing.
    """
    made = []
    for name in names:
        if name not in SCENARIOS:
            raise ScenarioError(f"there is no scenario {name!r}: expected some of {', '.join(SCENARIOS)}")
        method, model, call = SCENARIOS[name]
        try:
            ready = call(models)
        except (OSError, KeyError, IndexError, ValueError) as error:
            raise ScenarioError(
                f"{name}: no sample input under {models} ({error}); ./quickstart --once makes the example models"
            ) from None
        made.append(Scenario(name, model, f"{SERVICE}/{method}", ready.path, ready.body, ready.decode))
    return made


def weights(path: Path) -> Mapping[str, float]:
    """A mix of traffic: how often a scenario is called, by name, from a file of `name = weight` lines.

    Raises:
        ScenarioError: the file is wrong.
        OSError: it cannot be read.
    """
    try:
        mix = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path}: {error}") from None
    for name, weight in mix.items():
        if name not in SCENARIOS:
            raise ScenarioError(
                f"{path}: there is no scenario {name!r}: expected some of {', '.join(SCENARIOS)}"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight <= 0:
            raise ScenarioError(f"{path}: the weight of {name} must be a number above 0, not {weight!r}")
    if not mix:
        raise ScenarioError(f"{path}: names no scenario")
    return {name: float(weight) for name, weight in mix.items()}


def _textcnn(models: Path) -> calls.Call[Any]:
    text = next(iter(json.loads((models / "textcnn" / "expected.json").read_text())))
    inputs = {"sentence": np.array([tokens(text)]), "label": np.array([UNKNOWN_LABEL])}
    return calls.tensorflow("textcnn-69", inputs, signature="prediction")


def _half_plus_two(models: Path) -> calls.Call[Any]:
    return calls.tensorflow("half_plus_two-70", {"x": [[1.0], [2.0], [3.0]]})


def _features(models: Path) -> Any:
    return np.array(json.loads((models / "mmoe" / "expected.json").read_text())["features"][:1], np.float32)


def _mmoe(models: Path) -> calls.Call[Any]:
    return calls.pytorch(111, _features(models))


def _mmoe_v2(models: Path) -> calls.Call[Any]:
    return calls.kserve_v2("mmoe-111", {"input_0": _features(models)})


def _digits(models: Path) -> calls.Call[Any]:
    return calls.pytorch(39, sorted((models / "digits" / "samples").glob("*.png"))[0].read_bytes())


SCENARIOS: dict[str, tuple[str, str, Callable[[Path], calls.Call[Any]]]] = {
    "tf-textcnn": ("Predict", "textcnn", _textcnn),
    "tf-half-plus-two": ("Predict", "half_plus_two", _half_plus_two),
    "torch-mmoe": ("PytorchPredict", "mmoe", _mmoe),
    "torch-digits": ("PytorchPredict", "digits", _digits),
    "v2-mmoe": ("TisPredict", "mmoe", _mmoe_v2),
}
"""Method, example model and request, by name."""
