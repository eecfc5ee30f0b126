"""tritonclient, unmodified, against a KServe V2 backend behind the gateway, and the same call as TisPredict."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from e2e.system import PEXES, start_gateway
from examples.quickstart.processes import Processes
from libs.proto.messages import ModelInferRequest, ModelInferResponse, ModelReadyResponse
from libs.proto.services import (
    GRPCInferenceServiceServicer,
    WpaiDLPredictOnlineServiceStub,
    add_GRPCInferenceServiceServicer_to_server,
)

MODEL, TASK = "doubler-12", 12


class Doubler(GRPCInferenceServiceServicer):
    """A V2 backend: answers twice its FP32 input."""

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        doubled = np.frombuffer(request.raw_input_contents[0], "<f4") * 2
        response = ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
        response.raw_output_contents.append(doubled.tobytes())
        return response

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return ModelReadyResponse(ready=request.name == MODEL)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_GRPCInferenceServiceServicer_to_server(Doubler(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Processes(PEXES, tmp_path_factory.mktemp("logs")) as group:
        nodes: Path = tmp_path_factory.mktemp("nodes") / "nodes.txt"
        gateway = start_gateway(group, nodes, {TASK: [f"127.0.0.1:{port}"]})
        yield SimpleNamespace(gateway=gateway.address)
    server.stop(None)


def test_tritonclient_infers_through_the_gateway(system: SimpleNamespace) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = triton.InferInput("x", values.shape, "FP32")
    given.set_data_from_numpy(values)
    with triton.InferenceServerClient(system.gateway) as client:
        assert client.is_model_ready(MODEL)
        result = client.infer(MODEL, [given], request_id="42", client_timeout=10)
    np.testing.assert_array_equal(result.as_numpy("y"), values * 2)
    assert result.get_response().id == "42"


def test_tis_predict(system: SimpleNamespace) -> None:
    request = ModelInferRequest(model_name=MODEL, raw_input_contents=[np.array([1.5], np.float32).tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    with grpc.insecure_channel(system.gateway) as channel:
        response = WpaiDLPredictOnlineServiceStub(channel).TisPredict(request, timeout=10)
    assert np.frombuffer(response.raw_output_contents[0], "<f4").tolist() == [3.0]
