"""gRPC-Web and JSON in the real Envoy: curl, browsers' requests by hand, and answers that must not end the process."""

from __future__ import annotations

import base64
import http.client
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from libs.proto import messages
from services.gateway.table import Edge
from services.gateway.testing import WPAI_PATH, Backend, call, field_bytes, predict_request
from services.gateway.testing_edge import EdgeEnvoy, table_of, task_of

PREDICT = WPAI_PATH + "Predict"
ORIGIN = "https://models.example"
MAX_MESSAGE = 4 << 20


class Instance(Backend):
    """Answers what it is told to, and echoes where it is told nothing."""

    reply: bytes | None = None

    def answer(self, method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        echoed = super().answer(method, body, context)
        return echoed if self.reply is None else self.reply


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[EdgeEnvoy, Instance]]:
    with Instance() as instance:
        table = table_of(instance.address, task_of(69, timeout_ms=2000), edge=Edge(cors_origins=(ORIGIN,)))
        with EdgeEnvoy(table, max_message_bytes=MAX_MESSAGE) as envoy:
            yield envoy, instance


@pytest.fixture
def site(running: tuple[EdgeEnvoy, Instance]) -> Iterator[tuple[EdgeEnvoy, Instance]]:
    yield running
    running[1].reply, running[1].status, running[1].delay_s = None, grpc.StatusCode.OK, 0.0


def curl(envoy: EdgeEnvoy, path: str, *arguments: str) -> tuple[int, dict[str, str], bytes]:
    """curl's status, headers and body."""
    ran = subprocess.run(
        [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--include",
            *arguments,
            f"http://{envoy.address}{path}",
        ],
        capture_output=True,
        check=True,
        timeout=30,
    )
    head, _, body = ran.stdout.partition(b"\r\n\r\n")
    if b" 100 " in head.splitlines()[0]:
        head, _, body = body.partition(b"\r\n\r\n")
    lines = head.decode().splitlines()
    return (
        int(lines[0].split()[1]),
        dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line),
        body,
    )


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
def test_curl_calls_a_method(
    site: tuple[EdgeEnvoy, Instance], path: str, request_json: Any, reply: Any, expected: Any
) -> None:
    envoy, instance = site
    instance.reply = None if reply is None else reply.SerializeToString()
    assert post_json(envoy, path, request_json) == (200, expected)


def test_the_request_arrives_as_the_grpc_message(site: tuple[EdgeEnvoy, Instance]) -> None:
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


def test_the_task_may_be_said_in_a_header(site: tuple[EdgeEnvoy, Instance]) -> None:
    envoy, instance = site
    instance.reply = b""
    assert post_json(envoy, PREDICT, {}, "--header", "x-dl-task: 69") == (200, {})


def test_the_gateways_own_methods(site: tuple[EdgeEnvoy, Instance]) -> None:
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
def test_a_refusal_is_a_json_error(
    site: tuple[EdgeEnvoy, Instance], request_text: str, status: int, code: int, said: str
) -> None:
    found, headers, body = curl(site[0], PREDICT, "--data", request_text)
    assert found == status
    assert headers["content-type"] == "application/json"
    error = json.loads(body)
    assert error["code"] == code
    assert said in error["message"]


def test_an_instances_error_and_a_timeout_are_json_errors(site: tuple[EdgeEnvoy, Instance]) -> None:
    envoy, instance = site
    instance.status = grpc.StatusCode.FAILED_PRECONDITION
    assert post_json(envoy, PREDICT, SPEC) == (400, {"code": 9, "message": "as told"})
    instance.status, instance.delay_s = grpc.StatusCode.OK, 3.0
    status, error = post_json(envoy, PREDICT, SPEC)
    assert (status, error["code"]) == (504, 4)
    assert "task 69 did not answer in time" in error["message"]


@pytest.mark.parametrize(("size", "status"), [(MAX_MESSAGE - 1000, 200), (MAX_MESSAGE + 1000, 413)])
def test_messages_up_to_the_limit_pass(
    site: tuple[EdgeEnvoy, Instance], tmp_path: Path, size: int, status: int
) -> None:
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
    site: tuple[EdgeEnvoy, Instance], method: str, path: str, kind: str | None
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
def test_an_answer_that_cannot_be_json_is_an_error(
    site: tuple[EdgeEnvoy, Instance], path: str, reply: bytes
) -> None:
    envoy, instance = site
    instance.reply = reply
    status, error = post_json(envoy, path, SPEC)
    assert (status, error["code"]) == (500, 13)
    assert "call the model by gRPC" in error["message"]
    with envoy.channel() as channel:  # as the message says
        assert call(channel, path, predict_request("m-69")).body == reply


def test_no_spoilt_answer_ends_envoy(site: tuple[EdgeEnvoy, Instance]) -> None:
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


# --- gRPC-Web ---


def frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def grpc_web(
    envoy: EdgeEnvoy, message: bytes, *, text: bool, path: str = PREDICT
) -> tuple[int, dict[str, str], bytes]:
    """One call as a browser makes it. The answer's body is decoded from base64 where it is text."""
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    body = frame(message)
    connection = http.client.HTTPConnection("127.0.0.1", envoy.port, timeout=10)
    try:
        connection.request(
            "POST",
            path,
            base64.b64encode(body) if text else body,
            {"content-type": kind, "accept": kind, "x-grpc-web": "1", "origin": ORIGIN},
        )
        reply = connection.getresponse()
        found = reply.read()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        assert headers["content-type"].startswith(kind.removesuffix("+proto"))
        if text:  # each piece is encoded on its own
            padded = found.replace(b"=", b"= ").replace(b"= = ", b"== ").split()
            found = b"".join(base64.b64decode(piece) for piece in padded)
        return reply.status, headers, found
    finally:
        connection.close()


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_browser_calls_a_model(site: tuple[EdgeEnvoy, Instance], text: bool, size: int) -> None:
    message = predict_request("textcnn-69", bytes(size))
    status, headers, body = grpc_web(site[0], message, text=text)
    assert status == 200
    assert headers["access-control-allow-origin"] == ORIGIN
    assert body.startswith(frame(message))
    trailer = body[len(frame(message)) :]
    assert trailer[0] == 0x80
    assert b"grpc-status:0" in trailer.replace(b" ", b"")


@pytest.mark.parametrize(
    ("name", "path", "code", "said"),
    [
        ("textcnn-7", PREDICT, "5", "task 7 is not configured"),
        ("textcnn", PREDICT, "3", "does not end in a task id"),
        ("textcnn-69", "/no.such.Service/Method", "12", "has no method"),
    ],
)
def test_a_browser_reads_a_refusal(
    site: tuple[EdgeEnvoy, Instance], name: str, path: str, code: str, said: str
) -> None:
    status, headers, _ = grpc_web(site[0], predict_request(name), text=False, path=path)
    assert status == 200
    assert headers["grpc-status"] == code
    assert said in headers["grpc-message"]


def test_a_browser_reads_an_instances_error(site: tuple[EdgeEnvoy, Instance]) -> None:
    envoy, instance = site
    instance.status = grpc.StatusCode.FAILED_PRECONDITION
    _, headers, body = grpc_web(envoy, predict_request("m-69"), text=False)
    assert "9" in (headers.get("grpc-status"), body.partition(b"grpc-status:")[2][:1].decode())


# --- CORS ---


def preflight(envoy: EdgeEnvoy, origin: str) -> dict[str, str]:
    status, headers, _ = curl(
        envoy,
        PREDICT,
        *("--request", "OPTIONS"),
        *("--header", f"origin: {origin}"),
        *("--header", "access-control-request-method: POST"),
        *("--header", "access-control-request-headers: content-type,x-grpc-web,x-api-key"),
    )
    assert status == 200
    return headers


def test_a_page_of_a_listed_origin_may_call(site: tuple[EdgeEnvoy, Instance]) -> None:
    headers = preflight(site[0], ORIGIN)
    assert headers["access-control-allow-origin"] == ORIGIN
    assert "post" in headers["access-control-allow-methods"]
    for name in ("content-type", "x-grpc-web", "x-api-key", "authorization", "x-dl-task"):
        assert name in headers["access-control-allow-headers"]


@pytest.mark.parametrize("origin", ["https://models.example.evil", "http://models.example", "null"])
def test_a_page_of_another_origin_may_not(site: tuple[EdgeEnvoy, Instance], origin: str) -> None:
    assert "access-control-allow-origin" not in preflight(site[0], origin)
