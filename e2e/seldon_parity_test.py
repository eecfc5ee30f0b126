"""The worker and seldon-core 1.17.1's own microservice, running one class: the same requests get the same answers."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import (  # type: ignore[import-untyped]  # 3.20 has none
    MessageToDict,
    ParseDict,
)
from seldon_core.proto import prediction_pb2, prediction_pb2_grpc
from seldon_core.seldon_client import SeldonClient

from e2e.system import PEXES, start_worker
from examples.quickstart.processes import Processes

MODEL = Path("e2e/parity").absolute()
START_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "seldon-core's microservice ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("seldon-core's microservice does not listen")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Addresses of both, for gRPC and HTTP."""
    grpc_port, http_port = free_port(), free_port()
    command = [
        sys.executable, "-m", "seldon_core.microservice", "ParityModel", "--service-type", "MODEL",
        "--grpc-port", str(grpc_port), "--http-port", str(http_port), "--metrics-port", str(free_port()),
        "--workers", "1", "--grpc-workers", "1", "--log-level", "ERROR",
    ]  # fmt: skip
    path = os.pathsep.join([str(MODEL), *filter(None, sys.path)])
    log = tmp_path_factory.mktemp("seldon") / "log.txt"
    with log.open("wb") as stderr, Processes(PEXES, tmp_path_factory.mktemp("logs")) as group:
        peer = subprocess.Popen(
            command, cwd=MODEL, env={**os.environ, "PYTHONPATH": path}, stdout=stderr, stderr=stderr,
            start_new_session=True,
        )  # fmt: skip
        try:
            worker = start_worker(group, "parity", MODEL)
            worker.wait_ready()
            for port in (grpc_port, http_port):
                wait_until_listening(port, peer)
            yield SimpleNamespace(
                grpc=(worker.address, f"127.0.0.1:{grpc_port}"),
                http=(worker.address, f"127.0.0.1:{http_port}"),
                worker=worker.address,
            )
        finally:
            # Its servers are processes of their own in its session.
            os.killpg(peer.pid, 15)
            peer.wait(30)


META: dict[str, Any] = {
    "puid": "some-id",
    "tags": {"taskId": 39, "words": ["a", {"b": None}]},
    "routing": {"router": 1},
    "requestPath": {"before": "image:1"},
    "metrics": [{"key": "theirs", "type": "GAUGE", "value": 0.5}],
}
PAYLOADS: dict[str, dict[str, Any]] = {
    "tensor": {"data": {"names": ["a", "b"], "tensor": {"shape": [2, 2], "values": [1.5, 2.0, -3.0, 1e300]}}},
    "vector": {"data": {"tensor": {"shape": [2], "values": [1.5, 2.5]}}},
    "ndarray": {"data": {"names": ["a"], "ndarray": [[1.5], [2.5]]}},
    "words": {"data": {"ndarray": [["a", "字"]]}},
    "mixed": {"data": {"ndarray": [["a", 1.5]]}},
    "strData": {"strData": "text, 字"},
    "binData": {"binData": base64.b64encode(b"\x00\x01\xff").decode()},
    "jsonData": {"jsonData": {"a": [1.5, None, {"b": True}], "c": "字"}},
    "jsonList": {"jsonData": [1.5, 2.5]},
}
ANSWERS = (
    "same", "row", "integers", "vector", "cube", "empty", "words", "flags", "text", "bytes", "json", "names", "meta",
)  # fmt: skip


def message(payload: str, answer: str, meta: dict[str, Any] | None = None) -> dict[str, Any]:
    meta = dict(meta or {})
    if answer != "same":
        meta["tags"] = {**meta.get("tags", {}), "answer": answer}
    return {**PAYLOADS[payload], **({"meta": meta} if meta else {})}


def ask_grpc(address: str, document: dict[str, Any]) -> Any:
    request = ParseDict(document, prediction_pb2.SeldonMessage())
    with grpc.insecure_channel(address) as channel:
        return prediction_pb2_grpc.ModelStub(channel).Predict(request, timeout=20)


def ask_http(address: str, document: Any, path: str = "/predict") -> tuple[int, Any]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    request = urllib.request.Request(f"http://{address}{path}", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.headers["content-type"] == "application/json"
            return int(response.status), json.load(response)
    except urllib.error.HTTPError as error:
        assert error.headers["content-type"] == "application/json"
        return error.code, json.load(error)


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("meta", [None, META], ids=["bare", "meta"])
def test_grpc_answers_are_the_same(
    servers: SimpleNamespace, payload: str, meta: dict[str, Any] | None
) -> None:
    for answer in ANSWERS:
        ours, theirs = (ask_grpc(address, message(payload, answer, meta)) for address in servers.grpc)
        assert MessageToDict(ours) == MessageToDict(theirs), answer
        assert ours == theirs, answer


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("meta", [None, META], ids=["bare", "meta"])
def test_rest_answers_are_the_same(
    servers: SimpleNamespace, payload: str, meta: dict[str, Any] | None
) -> None:
    for answer in ANSWERS:
        if answer == "meta" and meta is None:
            continue  # this class takes None for an empty meta, and says so in its answer
        ours, theirs = (ask_http(address, message(payload, answer, meta)) for address in servers.http)
        assert ours == theirs, answer


@pytest.mark.parametrize("path", ["/api/v1.0/predictions", "/api/v0.1/predictions", "/predict?x=1"])
def test_rest_paths(servers: SimpleNamespace, path: str) -> None:
    ours, theirs = (ask_http(address, message("ndarray", "double"), path) for address in servers.http)
    assert ours == theirs and ours[0] == 200


@pytest.mark.parametrize(
    "document",
    [
        b"no json",
        {},
        {"meta": {}},
        [1],
        message("strData", "failure"),
    ],
    ids=["no json", "no payload", "only meta", "no object", "the model fails"],
)
def test_rest_errors_are_the_same_but_for_their_text(servers: SimpleNamespace, document: Any) -> None:
    ours, theirs = (ask_http(address, document) for address in servers.http)
    for status, answer in (ours, theirs):
        assert status >= 400 and answer["status"].pop("info")
    assert ours == theirs


def test_grpc_errors_have_a_code_that_says_more(servers: SimpleNamespace) -> None:
    """seldon-core answers UNKNOWN to whatever fails."""
    for document, code in (({}, "INVALID_ARGUMENT"), (message("strData", "failure"), "INTERNAL")):
        codes = []
        for address in servers.grpc:
            with pytest.raises(grpc.RpcError) as caught:
                ask_grpc(address, document)
            codes.append(caught.value.code().name)
        assert codes == [code, "UNKNOWN"]


def as_document(response: Any) -> Any:
    return response if isinstance(response, dict) else MessageToDict(response)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize("payload_type", ["tensor", "ndarray"])
def test_seldon_client(servers: SimpleNamespace, transport: str, payload_type: str) -> None:
    addresses = servers.grpc if transport == "grpc" else servers.http
    answers = []
    for address in addresses:
        client = SeldonClient(microservice_endpoint=address, transport=transport, payload_type=payload_type)
        result = client.microservice(data=np.array([[1.5, 2.5]]), names=["a", "b"], method="predict")
        assert result.success, result.msg
        answers.append(as_document(result.response))
    assert answers[0] == answers[1]
    assert payload_type in answers[0]["data"]


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize(
    ("argument", "value"), [("bin_data", b"\x00\xff"), ("str_data", "字"), ("json_data", {"a": [1.5]})]
)
def test_seldon_client_with_other_kinds(
    servers: SimpleNamespace, transport: str, argument: str, value: Any
) -> None:
    address = servers.worker
    client = SeldonClient(microservice_endpoint=address, transport=transport)
    result = client.microservice(method="predict", **{argument: value})
    assert result.success, result.msg
    document = as_document(result.response)
    expected = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    kind = {"bin_data": "binData", "str_data": "strData", "json_data": "jsonData"}[argument]
    assert document[kind] == expected
