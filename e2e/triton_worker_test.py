"""tritonclient and TisPredict, at the worker and through the gateway; the answers are those of the Seldon protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from e2e.system import PEXES, TORCH_MODELS, start_gateway, start_worker
from examples.quickstart.processes import Processes
from libs.proto.messages import ModelInferRequest, SeldonMessage
from libs.proto.services import ModelStub, WpaiDLPredictOnlineServiceStub

NAME, TASK, FEATURES = "mmoe", 111, 138
MODEL = f"{NAME}-{TASK}"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with Processes(PEXES, tmp_path_factory.mktemp("logs")) as group:
        worker = start_worker(group, NAME, TORCH_MODELS / NAME)
        nodes: Path = tmp_path_factory.mktemp("nodes") / "nodes.txt"
        gateway = start_gateway(group, nodes, {TASK: [worker.wait_ready()]})
        yield SimpleNamespace(worker=worker.address, gateway=gateway.address)


def rows(count: int) -> Any:
    return np.random.default_rng(count).random((count, FEATURES), np.float32)


def by_seldon(address: str, array: Any) -> Any:
    """The answer of the Seldon protocol, heads first: (2, rows, 1)."""
    request = SeldonMessage()
    request.data.tensor.shape.extend(array.shape)
    request.data.tensor.values.extend(array.ravel().tolist())
    with grpc.insecure_channel(address) as channel:
        tensor = ModelStub(channel).Predict(request, timeout=20).data.tensor
    return np.array(tensor.values).reshape(tensor.shape)


def answer(result: Any) -> Any:
    """All outputs in one array."""
    names = [output.name for output in result.get_response().outputs]
    return np.concatenate([result.as_numpy(name).reshape(-1) for name in names])


@pytest.mark.parametrize("where", ["worker", "gateway"])
@pytest.mark.parametrize("count", [1, 5])
def test_tritonclient(system: SimpleNamespace, where: str, count: int) -> None:
    values = rows(count)
    given = triton.InferInput("x", values.shape, "FP32")
    given.set_data_from_numpy(values)
    with triton.InferenceServerClient(getattr(system, where)) as client:
        assert client.is_model_ready(MODEL)
        result = client.infer(MODEL, [given], request_id="42", priority=1, client_timeout=20)
    assert (result.get_response().id, result.get_response().model_name) == ("42", MODEL)
    np.testing.assert_allclose(answer(result), by_seldon(system.worker, values).ravel(), rtol=1e-4, atol=1e-6)


def test_tritonclient_learns_about_the_server(system: SimpleNamespace) -> None:
    with triton.InferenceServerClient(system.worker) as client:
        assert client.is_server_live() and client.is_server_ready()
        assert "binary_tensor_data" in client.get_server_metadata().extensions
        assert client.get_model_metadata(NAME).platform == "pytorch"
        assert client.is_model_ready(NAME) and not client.is_model_ready("other")
        with pytest.raises(InferenceServerException, match="no model 'other'"):
            client.get_model_metadata("other")


def test_tis_predict(system: SimpleNamespace) -> None:
    values = rows(2)
    request = ModelInferRequest(model_name=MODEL, raw_input_contents=[values.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=values.shape)
    with grpc.insecure_channel(system.gateway) as channel:
        response = WpaiDLPredictOnlineServiceStub(channel).TisPredict(request, timeout=20)
    got = np.concatenate([np.frombuffer(raw, "<f4") for raw in response.raw_output_contents])
    np.testing.assert_allclose(got, by_seldon(system.worker, values).ravel(), rtol=1e-4, atol=1e-6)
