"""A custom operator: compiled, used by a model, and served by a process that was given its library."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.testing import Server, predict_request
from services.tf_serving.testing_operators import compile_operator, save_custom


def test_a_custom_operators_library_is_loaded_before_the_models(tmp_path: Path) -> None:
    tensorflow()
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    library = compile_operator(tmp_path)
    base = tmp_path / "custom"
    save_custom(str(library), str(base / "7"))
    request = predict_request("custom", {"x": np.array([[3]], "f4")})
    arguments = ["--model_name=custom", f"--model_base_path={base}", "--load_library"]
    with Server(*arguments, str(library)) as server, grpc.insecure_channel(server.address) as channel:
        response = PredictionServiceStub(channel).Predict(request, timeout=20)
        assert list(response.outputs["y"].float_val) == [3.5]

    bad = tmp_path / "bad.so"
    bad.write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match=f"error: cannot load the library of operators {bad}: .*too short"):
        Server(*arguments, str(bad))
    missing = tmp_path / "no.so"
    with pytest.raises(
        RuntimeError, match=f"error: cannot load the library of operators {missing}: there is"
    ):
        Server(*arguments, str(missing))

    with pytest.raises(RuntimeError, match="Op type not registered 'DlHalfPlus'"):
        Server(*arguments[:-1])
