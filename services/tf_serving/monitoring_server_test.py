"""The metrics of a server as a process, with batching, over gRPC and REST."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import warmup
from services.tf_serving.model.methods import CLASSIFY, REGRESS
from services.tf_serving.testing import Server, predict_request
from services.tf_serving.testing_recipes import example
from services.tf_serving.testing_rest import RestClient, ask

BATCHING = """
max_batch_size { value: 8 }
batch_timeout_micros { value: 0 }
allowed_batch_sizes: [4, 8]
thread_pool_name { value: "my_threads" }
"""
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Monitored:
    """A server with metrics at a path of its own."""

    path = "/my/metrics"

    def __init__(self, server: Server, version: Path) -> None:
        self.address = server.address
        self.version = version
        self.rest = RestClient(server.address)

    def samples(self) -> Samples:
        status, kind, body = ask(self.address, "GET", self.path)
        assert (status, kind) == (200, "text/plain")
        return {
            # The parser, not Prometheus, adds _total to the names of counters.
            (sample.name.removesuffix("_total"), frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }

    def grown(self, before: Samples, name: str, **labels: str) -> float:
        key = (f":tensorflow:{name}".removesuffix("_total"), frozenset(labels.items()))
        return self.samples()[key] - before.get(key, 0.0)


@pytest.fixture(scope="module")
def monitored(recipe: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    tf = tensorflow()
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    base = tmp_path_factory.mktemp("monitoring")
    version = base / "model" / "7"
    shutil.copytree(recipe("intents_estimator"), version)
    (version / warmup.FILE).parent.mkdir(exist_ok=True)
    log = PredictionLog()
    log.regress_log.request.model_spec.signature_name = "regression"
    log.regress_log.request.input.example_list.examples.append(example(price=1.0))
    with tf.io.TFRecordWriter(str(version / warmup.FILE)) as writer:
        for _ in range(3):
            writer.write(log.SerializeToString())
    (base / "batching.config").write_text(BATCHING)
    (base / "monitoring.config").write_text(f'prometheus_config {{ enable: true path: "{Monitored.path}" }}')
    arguments = ["--model_name=m-3", f"--model_base_path={base}/model", "--enable_batching=true"]
    arguments += [f"--batching_parameters_file={base}/batching.config"]
    with Server(*arguments, f"--monitoring_config_file={base}/monitoring.config") as server:
        yield Monitored(server, version)


@pytest.fixture
def stub(monitored: Monitored) -> Iterator[Any]:
    tensorflow()
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    with grpc.insecure_channel(monitored.address) as channel:
        yield PredictionServiceStub(channel)


def inputs(count: int) -> np.ndarray[Any, Any]:
    return np.array([example(price=float(number)).SerializeToString() for number in range(count)], object)


def test_requests_and_their_latencies(monitored: Monitored, stub: Any) -> None:
    from tensorflow_serving.apis.regression_pb2 import RegressionRequest

    before = monitored.samples()
    for _ in range(3):
        stub.Predict(predict_request("m-3", {"inputs": inputs(2)}, signature="regression"), timeout=20)
    request = RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "m-3", "regression"
    request.input.example_list.examples.append(example(price=1.0))
    stub.Regress(request, timeout=20)
    for name in ("no-such", "m-3"):
        with pytest.raises(grpc.RpcError):
            stub.Predict(predict_request(name, {"y": [1.0]}), timeout=20)
    assert monitored.rest.post("m-3:classify", {"examples": [{"price": 1.0}]})[0] == 200
    assert monitored.rest.get("m-3")[0] == 200
    assert monitored.rest.post("m-3:predict", b"{")[0] == 400
    assert monitored.rest.get("no-such")[0] == 404
    for labels, count in (
        ({"model_name": "m-3", "status": "OK"}, 6),
        ({"model_name": "m-3", "status": "INVALID_ARGUMENT"}, 2),
        ({"model_name": "no-such", "status": "NOT_FOUND"}, 2),
    ):
        assert monitored.grown(before, "serving:request_count", **labels) == count, labels
    for api, entrypoint, count in (
        ("Predict", "GRPC", 3),
        ("Regress", "GRPC", 1),
        ("classify", "REST", 1),
        ("", "REST", 1),
    ):
        labels = {"model_name": "m-3", "API": api, "entrypoint": entrypoint}
        latency = "serving:request_latency"
        assert monitored.grown(before, f"{latency}_count", **labels) == count
        assert monitored.grown(before, f"{latency}_bucket", **labels, le="+Inf") == count
        total = monitored.grown(before, f"{latency}_sum", **labels)
        assert 10 * count < total < 20e6  # microseconds
    for api, count in (("Predict", 3), ("Regress", 1), ("Classify", 1)):
        labels = {"model_name": "m-3", "API": api, "runtime": "TF1"}
        assert monitored.grown(before, "serving:runtime_latency_count", **labels) == count
    assert monitored.grown(before, "core:graph_runs") >= 5
    assert monitored.grown(before, "core:graph_run_time_usecs") > 0


def test_examples_of_several_inferences(monitored: Monitored, stub: Any) -> None:
    from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest

    before = monitored.samples()
    request = MultiInferenceRequest()
    for signature, method in (("", CLASSIFY), ("regression", REGRESS)):
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "m-3", signature
    request.input.example_list.examples.extend([example(price=1.0)] * 5)
    stub.MultiInference(request, timeout=20)
    assert monitored.grown(before, "serving:request_example_count_total", model="m-3") == 5
    assert monitored.grown(before, "serving:request_example_counts_count", model="m-3") == 1


def test_batches(monitored: Monitored, stub: Any) -> None:
    before = monitored.samples()
    for rows in (3, 5):
        stub.Predict(predict_request("m-3", {"inputs": inputs(rows)}, signature="regression"), timeout=20)
    session = "serving:batching_session"
    assert monitored.grown(before, f"{session}:wrapped_run_count") == 2
    assert monitored.grown(before, f"{session}:input_batch_size_sum") == 8
    assert monitored.grown(before, f"{session}:processed_batch_size_sum") == 12
    for size, padding in (("4", 1), ("8", 3)):
        labels = {"execution_batch_size": size}
        assert monitored.grown(before, f"{session}:padding_size_count", **labels) == 1
        assert monitored.grown(before, f"{session}:padding_size_sum", **labels) == padding
    count = monitored.grown(before, f"{session}:queuing_latency_count", thread_pool_name="my_threads")
    assert count == 2


def test_loads_and_warm_up(monitored: Monitored) -> None:
    none: Samples = {}
    path = str(monitored.version)
    loader = "cc:saved_model"
    assert monitored.grown(none, f"{loader}:load_attempt_count", model_path=path, status="success") == 1
    assert 100 < monitored.grown(none, f"{loader}:load_latency", model_path=path) < 90e6
    labels = {"model_path": path, "status": "OK"}
    assert monitored.grown(none, "serving:model_warmup_latency_count", **labels) == 1
    assert monitored.grown(none, "serving:model_warmup_records_read", **labels) == 3


def test_a_wrong_monitoring_file_ends_the_server_with_1_before_it_serves(
    models: Path, tmp_path: Path
) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text("\nprometheus_config { path: 'm' }")
    with pytest.raises(RuntimeError, match=f"error: {file}:2: prometheus_config.path: expected a path"):
        Server("--model_base_path", str(models / "half_plus_two"), "--monitoring_config_file", str(file))
