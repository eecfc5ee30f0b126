"""gRPC-Web and JSON in the real Envoy: curl, browsers' requests by hand, and answers that must not end the process."""

from __future__ import annotations

import base64
import http.client
import json
import random
from pathlib import Path
from typing import Any

import grpc
import pytest

from libs.proto import messages
from services.gateway.testing import WPAI_PATH, call, field_bytes, predict_request
from services.gateway.testing_edge import EdgeEnvoy
from services.gateway.testing_web import MAX_MESSAGE, Site, curl, running, site

PREDICT = WPAI_PATH + "Predict"
FIXTURES = (running, site)  # pytest finds them by their names


def post_json(envoy: EdgeEnvoy, path: str, request: Any, *arguments: str) -> tuple[int, Any]:
    status, headers, body = curl(envoy, path, "--data", json.dumps(request), *arguments)
    assert headers["content-type"] == "application/json"
    return status, json.loads(body)


TENSOR = {"dtype": "DT_FLOAT", "tensorShape": {"dim": [{"size": "2"}]}, "floatVal": [1, 2.5]}
SELDON = {"meta": {"tags": {"taskId": 69}}, "data": {"tensor": {"shape": [2], "values": [1, 2.5]}}}
INFER = {
    "modelName": "resnet-69",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": ["2"]}],
    "rawInputContents": [base64.b64encode(bytes(8)).decode()],
}
SPEC = {"modelSpec": {"name": "textcnn-69"}}


# --- JSON ---


@pytest.mark.parametrize(
    ("path", "request_json", "reply", "expected"),
    [
        (
            PREDICT,
            {"modelSpec": {"name": "textcnn-69"}, "inputs": {"x": TENSOR}},
            messages.PredictResponse(outputs={"y": messages.TensorProto(dtype="DT_FLOAT", float_val=[3.5])}),
            {"outputs": {"y": {"dtype": "DT_FLOAT", "floatVal": [3.5]}}},
        ),
        (WPAI_PATH + "PytorchPredict", SELDON, None, SELDON),
        (WPAI_PATH + "CaffePredict", SELDON, None, SELDON),
        (
            WPAI_PATH + "TisPredict",
            INFER,
            messages.ModelInferResponse(model_name="resnet-69", raw_output_contents=[b"\x00\x01\xff"]),
            {"modelName": "resnet-69", "rawOutputContents": ["AAH/"]},
        ),
        (
            "/tensorflow.serving.PredictionService/Predict",
            {"modelSpec": {"name": "textcnn-69"}, "inputs": {"x": TENSOR}},
            messages.PredictResponse(),
            {},
        ),
        (
            "/tensorflow.serving.ModelService/GetModelStatus",
            SPEC,
            messages.GetModelStatusResponse(model_version_status=[{"version": 3, "state": 30}]),
            {"model_version_status": [{"version": "3", "state": "AVAILABLE"}]},
        ),
        ("/seldon.protos.Model/Predict", SELDON, None, SELDON),
        ("/seldon.protos.Seldon/Predict", SELDON, None, SELDON),
        (
            "/inference.GRPCInferenceService/ModelInfer",
            INFER,
            messages.ModelInferResponse(model_name="resnet-69"),
            {"modelName": "resnet-69"},
        ),
        (
            "/inference.GRPCInferenceService/ModelReady",
            {"name": "resnet-69"},
            messages.ModelReadyResponse(ready=True),
            {"ready": True},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_curl_calls_a_method(site: Site, path: str, request_json: Any, reply: Any, expected: Any) -> None:
    envoy, instance = site
    instance.reply = None if reply is None else reply.SerializeToString()
    assert post_json(envoy, path, request_json) == (200, expected)


def test_the_request_arrives_as_the_grpc_message(site: Site) -> None:
    envoy, instance = site
    instance.reply = b""
    request = {
        "modelSpec": {"name": "textcnn-69"},
        "inputs": {"x": {"dtype": "DT_STRING", "stringVal": ["aGk="]}},
    }
    assert post_json(envoy, PREDICT, request)[0] == 200
    seen = instance.calls[-1]
    assert seen.method == "/tensorflow.serving.PredictionService/Predict"
    assert messages.PredictRequest.FromString(seen.body) == messages.PredictRequest(
        model_spec={"name": "textcnn-69"},
        inputs={"x": messages.TensorProto(dtype="DT_STRING", string_val=[b"hi"])},
    )
    assert seen.metadata["x-dl-task"] == "69"
    assert seen.time_left_s is not None and seen.time_left_s <= 2.0


def test_the_task_may_be_said_in_a_header(site: Site) -> None:
    envoy, instance = site
    instance.reply = b""
    assert post_json(envoy, PREDICT, {}, "--header", "x-dl-task: 69") == (200, {})


def test_the_gateways_own_methods(site: Site) -> None:
    assert post_json(site[0], "/grpc.health.v1.Health/Check", {}) == (200, {"status": "SERVING"})
    assert post_json(site[0], "/inference.GRPCInferenceService/ServerLive", {}) == (200, {"live": True})


@pytest.mark.parametrize(
    ("request_text", "status", "code", "said"),
    [
        ('{"modelSpec": {"name": "textcnn-7"}}', 404, 5, "task 7 is not configured"),
        ('{"modelSpec": {"name": "textcnn"}}', 400, 3, "does not end in a task id"),
        ('{"modelSpec": {"name": "a\\"b\\\\c"}}', 400, 3, 'a"b\\c'),
        ('{"modelSpec": 5}', 400, 3, ""),
        ("{}", 400, 3, "no model_spec.name"),
        ('{"modelSpec": ', 400, 3, ""),
        ("not json", 400, 3, "token"),
    ],
)
def test_a_refusal_is_a_json_error(site: Site, request_text: str, status: int, code: int, said: str) -> None:
    found, headers, body = curl(site[0], PREDICT, "--data", request_text)
    assert found == status
    assert headers["content-type"] == "application/json"
    error = json.loads(body)
    assert error["code"] == code
    assert said in error["message"]


def test_an_instances_error_and_a_timeout_are_json_errors(site: Site) -> None:
    envoy, instance = site
    instance.status = grpc.StatusCode.FAILED_PRECONDITION
    assert post_json(envoy, PREDICT, SPEC) == (400, {"code": 9, "message": "as told"})
    instance.status, instance.delay_s = grpc.StatusCode.OK, 3.0
    status, error = post_json(envoy, PREDICT, SPEC)
    assert (status, error["code"]) == (504, 4)
    # The instance knows the deadline too; on a busy machine it may be the first to say so.
    assert "task 69 did not answer in time" in error["message"] or error["message"] == "Deadline Exceeded"


@pytest.mark.parametrize(("size", "status"), [(MAX_MESSAGE - 1000, 200), (MAX_MESSAGE + 1000, 413)])
def test_messages_up_to_the_limit_pass(site: Site, tmp_path: Path, size: int, status: int) -> None:
    envoy, instance = site
    instance.reply = messages.PredictResponse(
        outputs={"y": messages.TensorProto(tensor_content=bytes(MAX_MESSAGE - 1000))}
    ).SerializeToString()
    request = {**SPEC, "inputs": {"x": {"tensorContent": base64.b64encode(bytes(size)).decode()}}}
    (tmp_path / "request").write_text(json.dumps(request))
    found, _, body = curl(envoy, PREDICT, "--data", f"@{tmp_path / 'request'}")
    assert found == status
    if status == 200:
        assert len(base64.b64decode(json.loads(body)["outputs"]["y"]["tensorContent"])) == MAX_MESSAGE - 1000


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/", None),
        ("GET", PREDICT, None),
        ("POST", "/", "application/json"),
        ("POST", "/no.such.Service/Method", "application/json"),
        ("PUT", PREDICT, "application/json"),
    ],
)
def test_what_is_no_call_is_told_what_is_spoken_here(
    site: Site, method: str, path: str, kind: str | None
) -> None:
    headers = ["--header", f"content-type: {kind}"] if kind else []
    data = ["--data", "{}"] if kind else []
    status, found, body = curl(site[0], path, "--request", method, *headers, *data)
    assert status == 415
    assert found["content-type"] == "text/plain"
    assert b"POST" in body and b"application/grpc" in body


# --- answers that Envoy's transcoder does not survive ---

WITHOUT_VALUE = field_bytes(1, field_bytes(1, b"y"))
IN_AN_ANY = field_bytes(
    2,
    field_bytes(1, b"signature_def")
    + field_bytes(
        2,
        field_bytes(1, b"type.googleapis.com/tensorflow.serving.SignatureDefMap")
        + field_bytes(2, WITHOUT_VALUE),
    ),
)


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        (PREDICT, WITHOUT_VALUE),
        (PREDICT, field_bytes(1, field_bytes(2, b""))),  # without a key
        (PREDICT, b"\x0a\xff\x01y"),  # longer than what is there
        (PREDICT, b"\xff" * 20),
        ("/tensorflow.serving.PredictionService/GetModelMetadata", IN_AN_ANY),
    ],
)
def test_an_answer_that_cannot_be_json_is_an_error(site: Site, path: str, reply: bytes) -> None:
    envoy, instance = site
    instance.reply = reply
    status, error = post_json(envoy, path, SPEC)
    assert (status, error["code"]) == (500, 13)
    assert "call the model by gRPC" in error["message"]
    with envoy.channel() as channel:  # as the message says
        assert call(channel, path, predict_request("m-69")).body == reply


def test_no_spoilt_answer_ends_envoy(site: Site) -> None:
    envoy, instance = site
    draw = random.Random(20_260_101)
    found = messages.SeldonMessage()
    found.meta.tags["t"].struct_value.update({"a": [1, "x", None], "b": {"c": True}})
    found.meta.routing["r"] = 4
    found.meta.requestPath["k"] = "v"
    found.data.tensor.values.extend([1, 2])
    good = found.SerializeToString()
    connection = http.client.HTTPConnection("127.0.0.1", envoy.port, timeout=10)
    codes = set()
    for _ in range(1500):
        spoilt = bytearray(good)
        for _ in range(draw.choice((1, 1, 2, 4))):
            at = draw.randrange(len(spoilt) or 1)
            kind = draw.randrange(4)
            if kind == 0 and spoilt:
                spoilt[at] = draw.randrange(256)
            elif kind == 1:
                del spoilt[at : at + draw.randrange(1, 4)]
            elif kind == 2:
                spoilt[at:at] = draw.randbytes(draw.randrange(1, 4))
            else:
                del spoilt[at + 1 :]
        instance.reply = bytes(spoilt)
        connection.request("POST", WPAI_PATH + "PytorchPredict", json.dumps(SELDON))
        reply = connection.getresponse()
        reply.read()
        codes.add(reply.status)
    connection.close()
    assert codes <= {200, 500, 502} and 200 in codes and 500 in codes
