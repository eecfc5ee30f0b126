"""Seldon over HTTP end to end, and what its gRPC carries besides arrays: a worker process, HTTP by hand."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import grpc
import numpy as np
import pytest

from libs.proto import messages
from libs.proto.messages import SeldonMessage
from services.torch_worker.testing import DOUBLER, make_folder
from services.torch_worker.testing_process import Running, worker

# Answers what preprocess saw; the tag `answer` picks something else.
ECHO = """
import numpy as np
import torch

def preprocess(x, **kwargs):
    meta = kwargs["meta"]
    if meta["tags"].get("fail") == "value":
        raise ValueError("not today")
    if meta["tags"].get("fail") == "key":
        raise KeyError("gone")
    meta["seen"] = x
    return torch.zeros(1, 3)

def postprocess(x, **kwargs):
    meta = kwargs["meta"]
    what = meta["tags"].get("answer")
    if what == "meta":
        return {key: meta[key] for key in ("puid", "tags", "names") if key in meta}
    if what == "type":
        return f"{type(meta['seen']).__name__} {getattr(meta['seen'], 'dtype', '')}"
    return meta["seen"]
"""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = make_folder(tmp_path_factory.mktemp("m") / "echo", DOUBLER, "Doubler()", processor=ECHO)
    with worker(folder) as running:
        yield running


@pytest.fixture(scope="module")
def doubler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with worker(make_folder(tmp_path_factory.mktemp("m") / "doubler", DOUBLER, "Doubler()")) as running:
        yield running


def ask(
    running: Running,
    body: bytes,
    kind: str = "application/json",
    path: str = "/predict",
    method: str = "POST",
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(running.address, timeout=20)
    connection.request(method, path, body, {"content-type": kind})
    response = connection.getresponse()
    assert response.getheader("content-type") == "application/json"
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def predict(running: Running, message: Any, **options: Any) -> tuple[int, Any]:
    return ask(running, json.dumps(message).encode(), **options)


TF_TENSOR = {"dtype": "DT_FLOAT", "tensorShape": {"dim": [{"size": "2"}]}, "floatVal": [1.5, 2]}


@pytest.mark.parametrize("path", ["/predict", "/api/v1.0/predictions", "/api/v0.1/predictions"])
@pytest.mark.parametrize(
    "message",
    [
        {"data": {"names": ["t:0", "t:1"], "tensor": {"shape": [1, 2], "values": [1.5, 2]}}},
        {"data": {"names": ["t:0", "t:1"], "ndarray": [[1.5, 2]]}},
        {"data": {"names": ["t:0"], "ndarray": [["a"], ["字"]]}},
        {"data": {"names": [], "ndarray": [True]}},
        {"strData": "字"},
        {"binData": base64.b64encode(b"\x00\xff").decode()},
        {"jsonData": {"a": [1, {"b": None}]}},
    ],
)
def test_every_kind_comes_back_as_it_was(echo: Running, path: str, message: Any) -> None:
    assert predict(echo, message, path=path) == (200, {**message, "meta": {}})


def test_tftensor(echo: Running) -> None:
    status, answer = predict(echo, {"data": {"tftensor": TF_TENSOR}})
    got = answer["data"]["tftensor"]
    assert status == 200 and got["dtype"] == "DT_FLOAT" and got["tensorShape"] == TF_TENSOR["tensorShape"]
    assert np.frombuffer(base64.b64decode(got["tensorContent"]), "<f4").tolist() == [1.5, 2]


def test_meta(echo: Running) -> None:
    meta = {
        "puid": "p",
        "tags": {"answer": "meta", "n": 1},
        "routing": {"r": 1},
        "requestPath": {"m": "image"},
        "metrics": [{"key": "k", "type": "COUNTER", "value": 1}],
    }
    status, answer = predict(echo, {"data": {"names": ["a"], "ndarray": [[1]]}, "meta": meta})
    assert status == 200
    assert answer["jsonData"] == {"puid": "p", "tags": {"answer": "meta", "n": 1}, "names": ["a"]}
    assert answer["meta"] == {key: value for key, value in meta.items() if key != "routing"}


def test_whole_numbers(echo: Running, doubler: Running) -> None:
    """Hooks see what numpy makes of JSON, models without hooks floats."""
    for data in ({"ndarray": [[1, 2, 3]]}, {"tensor": {"shape": [1, 3], "values": [1, 2, 3]}}):
        _, answer = predict(echo, {"data": data, "meta": {"tags": {"answer": "type"}}})
        assert answer["strData"] == "ndarray int64"
        status, answer = predict(doubler, {"data": data})
        got = answer["data"].get("ndarray") or [answer["data"]["tensor"]["values"]]
        assert status == 200 and got == [[3, 5, 7]]


def test_ways_to_send(echo: Running) -> None:
    message = json.dumps({"strData": "x y&z"})
    expected = (200, {"strData": "x y&z", "meta": {}})
    form = "application/x-www-form-urlencoded"
    assert ask(echo, urlencode({"json": message}).encode(), form) == expected
    assert ask(echo, message.encode(), form) == expected, "as curl -d sends it"
    for method in ("GET", "POST"):
        assert ask(echo, b"", path=f"/predict?json={quote(message)}", method=method) == expected
    parts = (
        b'--b\r\ncontent-disposition: form-data; name="meta"\r\n\r\n{"puid": "p"}\r\n'
        b'--b\r\ncontent-disposition: form-data; name="binData"; filename="f"\r\n'
        b"content-type: application/octet-stream\r\n\r\n\x00\r\n\xff\r\n--b--\r\n"
    )
    status, answer = ask(echo, parts, "multipart/form-data; boundary=b")
    assert (status, answer["meta"]) == (200, {"puid": "p"})
    assert base64.b64decode(answer["binData"]) == b"\x00\r\n\xff"


@pytest.mark.parametrize(
    ("message", "status", "reason", "text"),
    [
        ({}, 400, "MICROSERVICE_BAD_DATA", "carries no payload"),
        ([], 400, "MICROSERVICE_BAD_DATA", "JSON object"),
        ({"data": {"ndarray": [[1], [2, 3]]}}, 400, "MICROSERVICE_BAD_DATA", "data.ndarray"),
        ({"data": {"tensor": {"shape": [2], "values": [1]}}}, 400, "MICROSERVICE_BAD_DATA", "data.tensor"),
        ({"data": {"tensor": {"shape": [1], "values": ["a"]}}}, 400, "MICROSERVICE_BAD_DATA", "data.tensor"),
        ({"data": {"tensor": 3}}, 400, "MICROSERVICE_BAD_DATA", "data.tensor"),
        ({"data": {"tftensor": {"dtype": "x"}}}, 400, "MICROSERVICE_BAD_DATA", "data.tftensor"),
        ({"data": 3}, 400, "MICROSERVICE_BAD_DATA", "data: expected"),
        ({"binData": "A"}, 400, "MICROSERVICE_BAD_DATA", "base64"),
        ({"strData": 3}, 400, "MICROSERVICE_BAD_DATA", "strData"),
        ({"strData": "x", "meta": {"tags": [1]}}, 400, "MICROSERVICE_BAD_DATA", "meta.tags"),
        ({"strData": "x", "meta": {"tags": {"fail": "value"}}}, 400, "MICROSERVICE_BAD_DATA", "not today"),
        ({"strData": "x", "meta": {"tags": {"fail": "key"}}}, 500, "MICROSERVICE_INTERNAL_ERROR", "KeyError"),
    ],
)
def test_errors_carry_a_status(echo: Running, message: Any, status: int, reason: str, text: str) -> None:
    got, answer = predict(echo, message)
    told = answer["status"]
    assert (got, told["status"], told["code"], told["reason"]) == (status, 1, -1, reason)
    assert text in told["info"]


def test_what_is_no_json(echo: Running) -> None:
    for body in (b"", b"{", b"\xff", b"[" * 100_000):
        status, answer = ask(echo, body)
        assert status == 400 and answer["status"]["reason"] == "MICROSERVICE_BAD_DATA"
    assert ask(echo, b"", path="/api/v1.0/predictions", method="GET")[0] == 405


def test_custom_data_over_grpc(echo: Running) -> None:
    message = SeldonMessage()
    message.customData.type_url, message.customData.value = "example.com/a.B", b"\x00\xff"
    answer = echo.predict(message)
    assert answer.customData == message.customData
    message.meta.tags["answer"].string_value = "type"
    assert echo.predict(message).strData.startswith("Any")


def test_names_over_grpc(echo: Running) -> None:
    message = SeldonMessage()
    message.data.names.append("a")
    message.data.tensor.shape.append(1)
    message.data.tensor.values.append(1)
    message.meta.tags["answer"].string_value = "meta"
    for _ in range(3):
        fields = echo.predict(message).jsonData.struct_value.fields
        assert [value.string_value for value in fields["names"].list_value.values] == ["a"]


def test_a_model_without_hooks_takes_no_custom_data(doubler: Running) -> None:
    message = SeldonMessage(customData=messages.Any(type_url="x"))
    with pytest.raises(grpc.RpcError) as caught:
        doubler.predict(message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
