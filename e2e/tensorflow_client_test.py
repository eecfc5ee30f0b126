"""tensorflow-serving-api, unmodified, with the gateway's address in place of a server's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tensorflow import make_ndarray, make_tensor_proto
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from e2e.system import PEXES, TENSORFLOW_MODELS, start_gateway, start_tensorflow
from examples.quickstart.processes import Processes

MODEL = "half_plus_two-70"


@pytest.fixture(scope="module")
def stub(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[prediction_service_pb2_grpc.PredictionServiceStub]:
    with Processes(PEXES, tmp_path_factory.mktemp("logs")) as group:
        server = start_tensorflow(group, "half_plus_two", MODEL, TENSORFLOW_MODELS / "half_plus_two")
        nodes: Path = tmp_path_factory.mktemp("nodes") / "nodes.txt"
        gateway = start_gateway(group, nodes, {70: [server.wait_ready()]})
        with grpc.insecure_channel(gateway.address) as channel:
            yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_predict(stub: Any) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["x"].CopyFrom(make_tensor_proto([[1.0], [2.0], [5.0]]))
    response = stub.Predict(request, timeout=10)
    assert make_ndarray(response.outputs["y"]).tolist() == [[2.5], [3.0], [4.5]]
    assert response.model_spec.name == MODEL


def test_metadata(stub: Any) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = MODEL
    response = stub.GetModelMetadata(request, timeout=10)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert "x" in signatures.signature_def["serving_default"].inputs


def test_the_servers_own_errors_pass_through(stub: Any) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["nothing"].CopyFrom(make_tensor_proto([[1.0]]))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "nothing" in caught.value.details()
