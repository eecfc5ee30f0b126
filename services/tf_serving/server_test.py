"""The whole server as a process, driven by the official stubs."""

from __future__ import annotations

import shutil
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.testing import Server, predict_request


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    tensorflow()
    arguments = ("--model-name", "mixed-70", "--model-base-path", str(models / "mixed"))
    with Server(
        *arguments, "--enable-batching", "--model-threads=1", "--enable_reload_config=false"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def predict(channel: grpc.Channel, request: Any, timeout: float = 20) -> Any:
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    return PredictionServiceStub(channel).Predict(request, timeout=timeout)


def failure(channel: grpc.Channel, request: Any, timeout: float = 20) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, request, timeout)
    return caught.value.code(), caught.value.details() or ""


def metrics(server: Server) -> str:
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=20) as response:
        return str(response.read().decode())


def dropped(server: Server) -> float:
    """Calls that left the queue without a run, for whatever reason."""
    lines = [line for line in metrics(server).splitlines() if line.startswith("serving_queue_dropped_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def spin(turns: int) -> Any:
    return predict_request("mixed-70", {"n": np.array([turns], "i4")}, signature="spin")


def test_the_official_stubs_get_answers(channel: grpc.Channel) -> None:
    from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
    from tensorflow_serving.apis import get_model_status_pb2 as status_pb2
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    inputs = {"a": np.array([[1, 2]], "f4"), "b": np.array([[3, 4]], "f4")}
    response = predict(channel, predict_request("mixed-70", inputs, signature="two"))
    assert list(response.outputs["product"].float_val) == [3, 8]
    assert (response.model_spec.name, response.model_spec.version.value) == ("mixed-70", 7)

    wanted = metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    wanted.model_spec.name = "mixed-70"
    signatures = metadata_pb2.SignatureDefMap()
    metadata = PredictionServiceStub(channel).GetModelMetadata(wanted, timeout=20).metadata
    assert metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) >= {"two", "spin", "pick", "centre", "total"}

    question = status_pb2.GetModelStatusRequest()
    question.model_spec.name = "mixed-70"
    status = ModelServiceStub(channel).GetModelStatus(question, timeout=20)
    assert [(s.version, s.state) for s in status.model_version_status] == [(7, 30)]


def test_errors_arrive_with_code_and_text(channel: grpc.Channel) -> None:
    assert failure(channel, predict_request("mixed", {})) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(mixed)",
    )
    code, text = failure(channel, predict_request("mixed-70", {"i": [5]}, signature="pick"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "indices[0] = 5 is not in [0, 3)" in text


def test_callers_may_be_kept_from_changing_the_models(channel: grpc.Channel) -> None:
    from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub

    with pytest.raises(grpc.RpcError) as caught:
        ModelServiceStub(channel).HandleReloadConfigRequest(ReloadConfigRequest(), timeout=20)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "--enable-reload-config=false" in (caught.value.details() or "")


def test_requests_at_a_time_get_their_own_answers(channel: grpc.Channel) -> None:
    def ask(number: int) -> list[float]:
        inputs = {"a": np.full((2, 2), number, "f4"), "b": np.full((2, 2), 2, "f4")}
        response = predict(
            channel, predict_request("mixed-70", inputs, signature="two", outputs=("product",))
        )
        return list(response.outputs["product"].float_val)

    with ThreadPoolExecutor(16) as pool:
        for number, answer in enumerate(pool.map(ask, range(300))):
            assert answer == [number * 2.0] * 4


def test_a_deadline_on_a_slow_model_ends_in_time_and_the_queued_call_never_runs(
    server: Server, channel: grpc.Channel
) -> None:
    predict(channel, spin(1))  # what follows pays for no compilation
    start = time.monotonic()
    predict(channel, spin(20_000))
    turn = (time.monotonic() - start) / 20_000
    before = dropped(server)
    with ThreadPoolExecutor(3) as pool:
        # Keep the one model thread busy for some seconds, however fast this machine is.
        busy = [pool.submit(predict, channel, spin(int(2 / turn) + n), 120) for n in range(3)]
        wait(busy, timeout=0.3)
        code, _ = failure(channel, spin(3), timeout=0.1)
        # It waited in vain, or was told at once that it would.
        assert code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert not all(future.done() for future in busy)
        for future in busy:
            future.result(120)
    assert dropped(server) == before + 1


def test_health_and_metrics_are_on_the_same_port(server: Server, channel: grpc.Channel) -> None:
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    for service in (b"", b"tensorflow.serving.PredictionService", b"tensorflow.serving.ModelService"):
        name = b"\x0a" + bytes([len(service)]) + service if service else b""
        assert check(name, timeout=20) == b"\x08\x01"
    predict(channel, predict_request("mixed-70", {"i": [1]}, signature="pick"))
    text = metrics(server)
    assert 'grpc_method="Predict"' in text and 'model="mixed-70"' in text


def test_a_broken_model_ends_the_server_with_1_and_a_reason(models: Path, tmp_path: Path) -> None:
    base = tmp_path / "broken"
    shutil.copytree(models / "half_plus_two", base)
    shutil.rmtree(base / "7" / "variables")
    with pytest.raises(RuntimeError, match=f"error: cannot load {base}/7"):
        Server("--model-name", "m", "--model-base-path", str(base))


def test_sigterm_ends_it_with_0_and_calls_in_flight_are_answered(models: Path) -> None:
    arguments = (
        "--model-name",
        "mixed-70",
        "--model-base-path",
        str(models / "mixed"),
        "--drain-grace-s",
        "0.1",
    )
    with Server(*arguments) as server, grpc.insecure_channel(server.address) as channel:
        predict(channel, spin(1))
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(predict, channel, spin(30_000))
            time.sleep(0.1)
            assert server.stop() == 0, server.log()
            assert list(running.result(5).outputs["turns"].int_val) == [30_000]
        assert "Traceback" not in server.log() and "optree" not in server.log()
