"""seldon-core 1.17.1's own client and stubs, at the worker and through the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from seldon_core.proto import prediction_pb2, prediction_pb2_grpc
from seldon_core.seldon_client import SeldonClient

from e2e.system import PEXES, TORCH_MODELS, start_gateway, start_worker
from examples.quickstart.processes import Processes

TASK, FEATURES = 111, 138


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with Processes(PEXES, tmp_path_factory.mktemp("logs")) as group:
        worker = start_worker(group, "mmoe", TORCH_MODELS / "mmoe")
        nodes: Path = tmp_path_factory.mktemp("nodes") / "nodes.txt"
        gateway = start_gateway(group, nodes, {TASK: [worker.wait_ready()]})
        yield SimpleNamespace(worker=worker.address, gateway=gateway.address)


@pytest.mark.parametrize("payload_type", ["tensor", "ndarray"])
def test_client_at_the_worker(system: SimpleNamespace, payload_type: str) -> None:
    client = SeldonClient(microservice_endpoint=system.worker, transport="grpc", payload_type=payload_type)
    result = client.microservice(data=np.zeros((3, FEATURES)), method="predict")
    assert result.success, result.msg
    assert result.response.data.WhichOneof("data_oneof") == payload_type


@pytest.mark.parametrize("payload_type", ["tensor", "ndarray"])
def test_client_through_the_gateway(system: SimpleNamespace, payload_type: str) -> None:
    client = SeldonClient(
        deployment_name="mmoe",
        gateway="ambassador",
        gateway_endpoint=system.gateway,
        transport="grpc",
        payload_type=payload_type,
        channel_credentials=None,
    )
    result = client.predict(
        data=np.zeros((2, FEATURES)), meta={"tags": {"taskId": TASK}}, headers={"x-dl-task": str(TASK)}
    )
    assert result.success, result.msg
    assert payload_type in result.response["data"]


@pytest.mark.parametrize("stub_class", [prediction_pb2_grpc.ModelStub, prediction_pb2_grpc.SeldonStub])
@pytest.mark.parametrize("task", [{"number_value": TASK}, {"string_value": str(TASK)}])
def test_stubs_through_the_gateway(system: SimpleNamespace, stub_class: Any, task: dict[str, Any]) -> None:
    request = prediction_pb2.SeldonMessage()
    for name, value in task.items():
        setattr(request.meta.tags["taskId"], name, value)
    request.data.tensor.shape.extend([1, FEATURES])
    request.data.tensor.values.extend([0.0] * FEATURES)
    with grpc.insecure_channel(system.gateway) as channel:
        response = stub_class(channel).Predict(request, timeout=10)
    assert len(response.data.tensor.values) == 2
    assert all(0.0 <= value <= 1.0 for value in response.data.tensor.values)
