"""KServe V2 end to end: a worker process, plain grpcio, and HTTP by hand as tritonclient speaks it."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from libs.proto.kserve import InferTensor, RequestedOutput, decode_response, encode_request
from libs.proto.kserve_tensor import DATATYPES
from libs.proto.messages import (
    ModelInferRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    RepositoryIndexRequest,
    ServerMetadataRequest,
)
from libs.proto.services import GRPCInferenceServiceStub
from services.torch_worker.testing import DOUBLER, make_folder
from services.torch_worker.testing_process import Running, worker

CONFIG = """
[[inputs]]
name = "x"
dtype = "FP32"
shape = [-1, 3]

[[outputs]]
name = "y"
dtype = "FP32"
shape = [-1, 3]
"""

# Answers what preprocess saw.
ECHO = """
import time
import numpy as np
import torch

def preprocess(x, **kwargs):
    meta = kwargs["meta"]
    if meta["parameters"].get("sleep"):
        time.sleep(meta["parameters"]["sleep"])
    if meta["parameters"].get("fail"):
        raise ValueError("not today")
    inputs = x if isinstance(x, dict) else {"only": x}
    meta["seen"] = {name: np.array(array) for name, array in inputs.items()}
    told = {key: meta[key] for key in ("parameters", "puid", "tags") if key in meta}
    meta["seen"]["meta"] = {"type": type(x).__name__, **told}
    return torch.zeros(1, 3)

def postprocess(x, **kwargs):
    return kwargs["meta"]["seen"]
"""


@pytest.fixture(scope="module")
def doubler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = make_folder(tmp_path_factory.mktemp("m") / "doubler", DOUBLER, "Doubler()", config=CONFIG)
    with worker(folder) as running:
        yield running


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = make_folder(tmp_path_factory.mktemp("m") / "echo", DOUBLER, "Doubler()", processor=ECHO)
    with worker(folder, "--name", "mirror") as running:
        yield running


def infer(running: Running, body: bytes, **options: Any) -> Any:
    method = running.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    return decode_response(method(body, timeout=20, **options))


def refused(running: Running, body: bytes) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        infer(running, body)
    return caught.value.code().name, caught.value.details()


def x32(rows: int = 1) -> InferTensor:
    return InferTensor.of("x", np.arange(3 * rows, dtype=np.float32).reshape(rows, 3))


def outputs(response: Any) -> dict[str, Any]:
    return {tensor.name: tensor.array.tolist() for tensor in response.outputs}


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", ["doubler", "doubler-69"])
def test_one_tensor(doubler: Running, raw: bool, name: str) -> None:
    for rows in (1, 2, 2, 1):
        answer = infer(doubler, encode_request(name, [x32(rows)], id="i", raw=raw))
        assert (answer.model_name, answer.model_version, answer.id, answer.raw) == (name, "1", "i", raw)
        assert outputs(answer) == {"y": (2 * x32(rows).array + 1).tolist()}
        assert answer.outputs[0].datatype == "FP32"


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("raw", [True, False])
def test_every_datatype(echo: Running, datatype: str, raw: bool) -> None:
    if datatype == "BYTES":
        array: Any = np.array([[b"\x00\xff", b""]], object)
    else:
        array = np.array([[0, 1]]).astype(DATATYPES[datatype].array)
    if not raw and not DATATYPES[datatype].contents:
        pytest.skip("the protocol has no typed contents for it")
    answer = infer(echo, encode_request("mirror", [InferTensor("x", datatype, array)], raw=raw))
    got = {tensor.name: tensor for tensor in answer.outputs}["only"]
    assert got.datatype == ("FP32" if datatype == "BF16" else datatype)
    assert got.array.tolist() == array.tolist()


def test_several_inputs_and_what_comes_with_them(echo: Running) -> None:
    inputs = [InferTensor.of("ids", np.array([[1, 2]])), InferTensor.of("text", np.array([b"a"], object))]
    for _ in range(2):
        answer = infer(
            echo,
            encode_request(
                "mirror", inputs, id="7", parameters={"k": 0.5, "priority": 2, "timeout": 10_000_000}
            ),
        )
        found = outputs(answer)
        assert found["ids"] == [[1, 2]] and found["text"] == [b"a"]
        meta = json.loads(found["meta"][0])
        assert meta == {"type": meta["type"], "parameters": {"k": 0.5}, "puid": "7", "tags": {}}


def test_requested_outputs(echo: Running) -> None:
    asked = [RequestedOutput("meta"), RequestedOutput("only")]
    answer = infer(echo, encode_request("mirror", [x32()], outputs=asked))
    assert [tensor.name for tensor in answer.outputs] == ["meta", "only"]
    body = encode_request("mirror", [x32()], outputs=[RequestedOutput("nope")])
    assert refused(echo, body) == (
        "INVALID_ARGUMENT",
        "unknown output 'nope'; this model answers 'only', 'meta'",
    )


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"\xff", "INVALID_ARGUMENT", "not a ModelInferRequest"),
        (encode_request("doubler", []), "INVALID_ARGUMENT", "no inputs"),
        (encode_request("other", [x32()]), "NOT_FOUND", "no model 'other'"),
        (encode_request("doubler", [x32()], model_version="9"), "NOT_FOUND", "no version '9'"),
        (
            encode_request("doubler", [InferTensor.of("z", np.ones((1, 3), np.float32))]),
            "INVALID_ARGUMENT",
            "unknown input 'z'",
        ),
        (encode_request("doubler", [InferTensor.of("x", np.ones((1, 3)))]), "INVALID_ARGUMENT", "takes FP32"),
        (
            encode_request("doubler", [x32()], outputs=[RequestedOutput("z")]),
            "INVALID_ARGUMENT",
            "unknown output 'z'",
        ),
        (encode_request("doubler", [x32()], parameters={"priority": "x"}), "INVALID_ARGUMENT", "'priority'"),
    ],
)
def test_refusals(doubler: Running, body: bytes, code: str, text: str) -> None:
    got, details = refused(doubler, body)
    assert got == code and text in details


def test_readiness_and_metadata(doubler: Running, echo: Running) -> None:
    stub = GRPCInferenceServiceStub(doubler.channel)
    empty = doubler.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
    assert empty(b"", timeout=10) == b"\x08\x01"
    assert doubler.channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"") == b"\x08\x01"
    assert stub.ModelReady(ModelReadyRequest(name="doubler", version="1")).ready
    for absent in (ModelReadyRequest(name="other"), ModelReadyRequest(name="doubler", version="9")):
        assert not stub.ModelReady(absent).ready
    assert "binary_tensor_data" in stub.ServerMetadata(ServerMetadataRequest()).extensions
    told = stub.ModelMetadata(ModelMetadataRequest(name="doubler"))
    (x,), (y,) = told.inputs, told.outputs
    assert (x.name, x.datatype, list(x.shape), y.name) == ("x", "FP32", [-1, 3], "y")
    guessed = GRPCInferenceServiceStub(echo.channel).ModelMetadata(ModelMetadataRequest(name="mirror"))
    assert len(guessed.inputs) >= 1 and guessed.inputs[0].datatype


def test_the_repositorys_index(doubler: Running) -> None:
    stub = GRPCInferenceServiceStub(doubler.channel)
    for ready in (True, False):
        (entry,) = stub.RepositoryIndex(RepositoryIndexRequest(ready=ready)).models
        assert (entry.name, entry.version, entry.state, entry.reason) == ("doubler", "1", "READY", "")
    expected = [{"name": "doubler", "version": "1", "state": "READY", "reason": ""}]
    assert document(doubler, "POST", "/v2/repository/index", {"ready": True}) == (200, expected)
    assert ask(doubler, "POST", "/v2/repository/index")[0] == 200
    assert ask(doubler, "POST", "/v2/repository/index", b"{")[0] == 400


def test_answers_are_their_own_requests_under_batching(doubler: Running) -> None:
    rng = np.random.default_rng(6)
    stub = GRPCInferenceServiceStub(doubler.channel)
    calls = []
    for n in range(600):
        array = rng.normal(size=(int(rng.integers(1, 4)), 3)).astype(np.float32)
        body = encode_request("doubler", [InferTensor.of("x", array)], id=str(n % 5), raw=bool(n % 3))
        calls.append(
            (array, str(n % 5), stub.ModelInfer.future(ModelInferRequest.FromString(body), timeout=60))
        )
    for array, asked, call in calls:
        answer = decode_response(call.result().SerializeToString())
        assert answer.id == asked
        np.testing.assert_allclose(answer.outputs[0].array, 2 * array + 1, rtol=1e-5, atol=1e-6)


# --- HTTP ---


def ask(
    running: Running, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(running.address, timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    answer = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    connection.close()
    return answer


def document(running: Running, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    status, fields, answer = ask(running, method, path, data, **headers)
    assert fields["content-type"] == "application/json"
    return status, json.loads(answer)


REQUEST = {"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [[1, 2, 3]]}]}
INFER = "/v2/models/doubler/infer"


def test_http_probes_and_metadata(doubler: Running) -> None:
    assert document(doubler, "GET", "/v2")[1]["name"] == "torch-worker"
    assert document(doubler, "GET", "/v2/health/live") == (200, {"live": True})
    assert document(doubler, "GET", "/v2/health/ready") == (200, {"ready": True})
    for path in ("/v2/models/doubler", "/v2/models/doubler/versions/1"):
        status, told = document(doubler, "GET", path)
        assert status == 200 and told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
        assert document(doubler, "GET", f"{path}/ready")[0] == 200
    for path in ("/v2/models/doubler/versions/9", "/v2/models/other/ready"):
        status, told = document(doubler, "GET", path)
        assert status == 404 and told["error"]


@pytest.mark.parametrize("path", [INFER, "/v2/models/doubler-69/versions/1/infer"])
def test_http_json(doubler: Running, path: str) -> None:
    status, answer = document(doubler, "POST", path, REQUEST)
    assert status == 200 and answer == {
        "model_name": path.split("/")[3],
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [3, 5, 7]}],
    }


@pytest.mark.parametrize("wish", ["request", "output", "neither"])
@pytest.mark.parametrize("binary_input", [True, False])
def test_http_binary_data(doubler: Running, wish: str, binary_input: bool) -> None:
    values = np.array([[1, 2, 3]], "<f4")
    item: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
    item |= {"parameters": {"binary_data_size": 12}} if binary_input else {"data": values.ravel().tolist()}
    asked: dict[str, Any] = {"inputs": [item]}
    if wish == "request":
        asked["parameters"] = {"binary_data_output": True}
    elif wish == "output":
        asked["outputs"] = [{"name": "y", "parameters": {"binary_data": True}}]
    head = json.dumps(asked).encode()
    status, fields, answer = ask(
        doubler,
        "POST",
        INFER,
        head + (values.tobytes() if binary_input else b""),
        Inference_Header_Content_Length=str(len(head)),
    )
    assert status == 200
    length = int(fields.get("inference-header-content-length", len(answer)))
    output = json.loads(answer[:length])["outputs"][0]
    if wish == "neither":
        assert output["data"] == [3, 5, 7] and length == len(answer)
    else:
        assert (
            output["parameters"] == {"binary_data_size": 12} and fields["content-type"] != "application/json"
        )
        assert np.frombuffer(answer[length:], "<f4").tolist() == [3, 5, 7]


def test_http_text_and_parameters(echo: Running) -> None:
    status, answer = document(
        echo,
        "POST",
        "/v2/models/mirror/infer",
        {
            "parameters": {"k": "v"},
            "inputs": [
                {"name": "a", "datatype": "BYTES", "shape": [1], "data": ["字"]},
                {"name": "b", "datatype": "BOOL", "shape": [1], "data": [True]},
            ],
            "outputs": [{"name": "b"}, {"name": "a"}, {"name": "meta"}],
        },
    )
    assert status == 200
    assert [(o["name"], o["data"]) for o in answer["outputs"][:2]] == [("b", [True]), ("a", ["字"])]
    assert json.loads(answer["outputs"][2]["data"][0])["parameters"] == {"k": "v"}


def test_http_large_bodies_and_their_bound(echo: Running) -> None:
    data = [0.5] * 30_000
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 30_000], "data": data}]}
    status, answer = document(echo, "POST", "/v2/models/mirror/infer", body)
    assert status == 200 and answer["outputs"][0]["data"] == data
    status, told = document(echo, "POST", "/v2/models/mirror/infer", "x" * (11 << 20))
    assert status == 413 and "too large" in told["error"]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"inputs": []}, 400, "no inputs"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1]}]}, 400, "input 'x'"),
        ({**REQUEST, "outputs": [{"name": "z"}]}, 400, "unknown output 'z'"),
        ("no object", 400, "JSON object"),
    ],
)
def test_http_refusals(doubler: Running, body: Any, status: int, text: str) -> None:
    got, told = document(doubler, "POST", INFER, body)
    assert got == status and text in told["error"]


def test_http_verbs_paths_and_headers(doubler: Running) -> None:
    status, fields, body = ask(doubler, "GET", INFER)
    assert (status, fields["allow"], json.loads(body)) == (405, "POST", {"error": "expected POST"})
    assert ask(doubler, "GET", "/v2/models/a/b/c")[0] == 404
    assert document(doubler, "POST", INFER, REQUEST, content_encoding="br")[0] == 415
    assert document(doubler, "POST", INFER, REQUEST, content_encoding="gzip")[0] == 400
    assert document(doubler, "POST", INFER, REQUEST, inference_header_content_length="x")[0] == 400
    assert document(doubler, "POST", INFER, REQUEST, x_request_timeout_ms="soon")[0] == 400
    assert document(doubler, "POST", INFER, REQUEST, grpc_timeout="5S")[0] == 200


def sleeper(seconds: float) -> Any:
    item = {"name": "x", "datatype": "FP32", "shape": [1], "data": [0]}
    return {"parameters": {"sleep": seconds}, "inputs": [item]}


@pytest.mark.parametrize("header", ["grpc_timeout", "x_request_timeout_ms"])
def test_http_deadlines(echo: Running, header: str) -> None:
    value = "200m" if header == "grpc_timeout" else "200"
    status, told = document(echo, "POST", "/v2/models/mirror/infer", sleeper(3), **{header: value})
    assert status == 504 and told["error"]


def test_http_a_caller_who_leaves_frees_the_queue(echo: Running) -> None:
    """With all hook threads busy, what waits behind them is dropped when its callers leave."""
    before = dropped(echo)
    with ThreadPoolExecutor(16) as pool:
        busy = [pool.submit(document, echo, "POST", "/v2/models/mirror/infer", sleeper(2)) for _ in range(16)]
        time.sleep(0.3)
        body = json.dumps(sleeper(0)).encode()
        host, port = echo.address.split(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            head = f"POST /v2/models/mirror/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            time.sleep(0.3)
        assert [call.result()[0] for call in busy] == [200] * 16
    until = time.monotonic() + 10
    while dropped(echo) == before:
        assert time.monotonic() < until, "the request of a caller who left was run"
        time.sleep(0.05)


def dropped(running: Running) -> float:
    lines = running.get("/metrics").splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("serving_queue_dropped_total")
    )
