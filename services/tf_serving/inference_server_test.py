"""The server as a process, with batching parameters, driven by the official stubs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model.methods import CLASSIFY, REGRESS
from services.tf_serving.testing import Server, predict_request
from services.tf_serving.testing_recipes import LABELS, example

PARAMETERS = """
max_batch_size { value: 16 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 20 }
num_batch_threads { value: 1 }
allowed_batch_sizes: [4, 16]
"""


@pytest.fixture(scope="module")
def stub(recipe: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    tensorflow()
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    file = tmp_path_factory.mktemp("batching") / "batching.config"
    file.write_text(PARAMETERS)
    base = recipe("intents_estimator").parent
    arguments = ["--model_name=intents-3", f"--model_base_path={base}", "--enable_batching=true"]
    with (
        Server(*arguments, f"--batching_parameters_file={file}") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield PredictionServiceStub(channel)


def test_every_rpc_of_inference_answers_the_official_stub(stub: Any) -> None:
    from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
    from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
    from tensorflow_serving.apis.regression_pb2 import RegressionRequest

    examples = [example(words=[b"car"], price=4.0), example(words=[b"flat"], price=8.0)]
    classification, regression, several = (
        ClassificationRequest(),
        RegressionRequest(),
        MultiInferenceRequest(),
    )
    for request in (classification, regression):
        request.model_spec.name = "intents-3"
    regression.model_spec.signature_name = "regression"
    for signature, method in (("", CLASSIFY), ("regression", REGRESS)):
        task = several.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "intents-3", signature
    for request in (classification, regression, several):
        request.input.example_list.examples.extend(examples)

    classified = stub.Classify(classification, timeout=20).result
    best = [max(row.classes, key=lambda c: c.score).label for row in classified.classifications]
    assert best == [LABELS[1], LABELS[0]]
    regressed = stub.Regress(regression, timeout=20).result
    assert [r.value for r in regressed.regressions] == [1.0, 2.0]
    first, second = stub.MultiInference(several, timeout=20).results
    assert first.classification_result == classified and second.regression_result == regressed


def test_callers_at_a_time_share_runs_of_allowed_sizes_and_get_their_own_answers(stub: Any) -> None:
    def ask(number: int) -> list[float]:
        given = [example(price=float(number * 4 + row)).SerializeToString() for row in range(number % 3 + 1)]
        request = predict_request("intents-3", {"examples": np.array(given, object)}, signature="predict")
        request.model_spec.signature_name = "regression"
        request.inputs["inputs"].CopyFrom(request.inputs.pop("examples"))
        return list(stub.Predict(request, timeout=20).outputs["outputs"].float_val)

    with ThreadPoolExecutor(16) as pool:
        for number, answer in enumerate(pool.map(ask, range(200))):
            assert answer == [number + row / 4 for row in range(number % 3 + 1)]


def test_a_request_larger_than_a_batch_may_be_is_refused_in_tensorflow_servings_words(stub: Any) -> None:
    given = np.array([example(price=1.0).SerializeToString()] * 17, object)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(predict_request("intents-3", {"inputs": given}, signature="regression"), timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "Task size 17 is larger than maximum input batch size 16"


def test_errors_arrive_with_tensorflow_servings_codes_and_texts(stub: Any) -> None:
    from tensorflow_serving.apis.regression_pb2 import RegressionRequest

    request = RegressionRequest()
    request.model_spec.name = "intents-3"
    request.input.example_list.examples.append(example(price=1.0))
    for name, signature, code, text in (
        ("intents", "", grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(intents)"),
        ("intents-3", "", grpc.StatusCode.INVALID_ARGUMENT, "Expected one output Tensor."),
        ("intents-3", "no", grpc.StatusCode.INVALID_ARGUMENT, "No signature was found with the name: no"),
    ):
        request.model_spec.name, request.model_spec.signature_name = name, signature
        with pytest.raises(grpc.RpcError) as caught:
            stub.Regress(request, timeout=20)
        assert (caught.value.code(), caught.value.details()) == (code, text)


@pytest.mark.parametrize("text", ["max_batch_size { value: 0 }", "allowed_batch_sizes: 8"])
def test_wrong_batching_parameters_end_the_server_with_1_before_it_serves(
    models: Path, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "batching.config"
    file.write_text(text)
    base = models / "half_plus_two"
    with pytest.raises(RuntimeError, match=f"error: {file}:1: "):
        Server("--model_base_path", str(base), "--enable_batching", "--batching_parameters_file", str(file))
