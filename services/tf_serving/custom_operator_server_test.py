"""A custom operator: compiled, used by a model, and served by a process that was given its library."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.testing import Server, predict_request
from services.tf_serving.testing_operators import compile_operator, save_custom


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_operator(tmp_path_factory.mktemp("operators"))


@pytest.fixture(scope="module")
def arguments(library: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("custom")
    save_custom(str(library), str(base / "7"))
    return ["--model_name=custom", f"--model_base_path={base}"]


def test_the_library_is_loaded_before_the_models(library: Path, arguments: list[str]) -> None:
    tensorflow()
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    request = predict_request("custom", {"x": np.array([[3]], "f4")})
    with (
        Server(*arguments, "--load_library", str(library)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        response = PredictionServiceStub(channel).Predict(request, timeout=20)
    assert list(response.outputs["y"].float_val) == [3.5]


def test_without_it_the_model_cannot_be_loaded(arguments: list[str]) -> None:
    with pytest.raises(RuntimeError, match="error: cannot load .*/7: Op type not registered 'DlHalfPlus'"):
        Server(*arguments)


@pytest.mark.parametrize(
    ("name", "why"), [("bad.so", ".*file too short"), ("no.so", "there is no such file")]
)
def test_a_bad_or_missing_library_ends_the_server_with_its_path(
    arguments: list[str], tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "bad.so").write_bytes(b"nothing")
    file = tmp_path / name
    with pytest.raises(RuntimeError, match=f"error: cannot load the library of operators {file}: {why}"):
        Server(*arguments, "--load_library", str(file))
