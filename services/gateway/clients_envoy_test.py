"""Clients as their users have them: grpcio's two kinds with generated stubs, one that knows the services by reflection
alone as grpcurl does, and curl."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from libs.proto import messages
from libs.proto.services import WpaiDLPredictOnlineServiceStub
from services.gateway.methods import KSERVE, WPAI
from services.gateway.testing import Backend, GatewayProcess, backends

pytestmark = pytest.mark.timeout(60)

Setup = tuple[GatewayProcess, Backend]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """Task 7 echoes: the answer to a request is the request."""
    nodes = tmp_path_factory.mktemp("clients") / "nodes.txt"
    with backends(1) as (backend,):
        nodes.write_text(f"7=5000,{backend.address}\n")
        with GatewayProcess(nodes) as gateway:
            yield gateway, backend


def seldon(puid: str) -> messages.SeldonMessage:
    request = messages.SeldonMessage()
    request.meta.puid = puid
    request.meta.tags["taskId"].number_value = 7
    request.data.tensor.shape.extend([1, 2])
    request.data.tensor.values.extend([0.5, 1.5])
    return request


def test_the_sync_client_with_the_generated_stub(setup: Setup) -> None:
    with grpc.insecure_channel(setup[0].address) as channel:
        stub = WpaiDLPredictOnlineServiceStub(channel)
        assert stub.PytorchPredict(seldon("a"), timeout=5) == seldon("a")
        infer = messages.ModelInferRequest(model_name="resnet-7", id="1")
        # An echoed request is no answer of its type: what counts is that it is the bytes that came.
        answer = stub.TisPredict.with_call(infer, timeout=5)[1]
        assert answer.code() == grpc.StatusCode.OK
        future = stub.CaffePredict.future(seldon("b"), timeout=5)
        assert future.result() == seldon("b")
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(messages.PredictRequest(), timeout=5)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_asyncio_client_with_many_calls_at_once(setup: Setup) -> None:
    async with grpc.aio.insecure_channel(setup[0].address) as channel:
        stub = WpaiDLPredictOnlineServiceStub(channel)
        calls = (stub.PytorchPredict(seldon(str(number)), timeout=10) for number in range(300))
        answers = await asyncio.gather(*calls)
        assert [answer.meta.puid for answer in answers] == [str(number) for number in range(300)]


async def test_the_asyncio_client_cancels_and_misses_deadlines(setup: Setup) -> None:
    gateway, backend = setup
    backend.delay_s = 0.5
    try:
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            stub = WpaiDLPredictOnlineServiceStub(channel)
            late = stub.PytorchPredict(seldon("late"), timeout=0.1)
            cancelled = stub.PytorchPredict(seldon("cancelled"), timeout=5)
            await asyncio.sleep(0.05)
            assert cancelled.cancel()
            assert await late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert await cancelled.code() == grpc.StatusCode.CANCELLED
    finally:
        backend.delay_s = 0.0


@pytest.mark.parametrize(
    "method, request_json",
    [
        ("PytorchPredict", {"meta": {"tags": {"taskId": 7}}, "data": {"ndarray": [[1.0, 2.0]]}}),
        ("CaffePredict", {"meta": {"tags": {"taskId": "7"}}, "strData": "text"}),
    ],
)
def test_a_client_that_knows_only_reflection(setup: Setup, method: str, request_json: dict[str, Any]) -> None:
    with grpc.insecure_channel(setup[0].address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {WPAI, KSERVE} <= set(database.get_services())
        pool = descriptor_pool.DescriptorPool(database)
        found = pool.FindServiceByName(WPAI).FindMethodByName(method)
        request_class = message_factory.GetMessageClass(found.input_type)
        response_class = message_factory.GetMessageClass(found.output_type)
        call = channel.unary_unary(
            f"/{WPAI}/{method}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        answer = call(json_format.ParseDict(request_json, request_class()), timeout=5)
        assert json_format.MessageToDict(answer) == request_json


def test_reflection_describes_the_services_that_it_lists(setup: Setup) -> None:
    with grpc.insecure_channel(setup[0].address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        # grpcio has no descriptors of the newer reflection service, and clients that use it know it.
        for service in set(database.get_services()) - {"grpc.reflection.v1.ServerReflection"}:
            described = pool.FindServiceByName(service)
            assert described.methods, service
            for method in described.methods:
                message_factory.GetMessageClass(method.input_type)
                message_factory.GetMessageClass(method.output_type)


def test_curl_sends_json(setup: Setup) -> None:
    request = {"meta": {"tags": {"taskId": 7}}, "data": {"tensor": {"shape": [1, 2], "values": [0.5, 1.5]}}}
    done = subprocess.run(
        [
            "curl",
            "--silent",
            "--fail-with-body",
            "--max-time",
            "10",
            "--header",
            "content-type: application/json",
            "--data",
            json.dumps(request),
            f"http://{setup[0].address}/{WPAI}/PytorchPredict",
        ],
        check=True,
        capture_output=True,
        timeout=20,
    )
    assert json.loads(done.stdout)["data"] == request["data"]
