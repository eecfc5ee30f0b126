"""How each peer is asked and how it answers: one row of the mmoe model as bytes on the wire, and back.

Each call knows its body, its path and its HTTP version, so that one load generator can drive every peer, and can make
one checked call by a plain client: h2load looks at neither a gRPC status nor an answer.
"""

from __future__ import annotations

import base64
import http.client
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from libs.proto.messages import ModelInferRequest, ModelInferResponse, SeldonMessage

TIMEOUT_S = 30.0


class Call(Protocol):
    """One way to ask a server for a row of the model."""

    @property
    def path(self) -> str:
        """Of the request, with the leading slash."""

    @property
    def headers(self) -> tuple[str, ...]:
        """What h2load sends along, `name: value`."""

    @property
    def grpc(self) -> bool:
        """gRPC over HTTP/2 without TLS; otherwise a POST over HTTP/1.1."""

    def body(self, row: Sequence[float]) -> bytes:
        """The request for a row of 138 features: a message without gRPC's five bytes of framing."""

    def values(self, answer: bytes) -> list[float]:
        """Both heads from the bytes of an answer."""


def ask(address: str, call: Call, row: Sequence[float]) -> tuple[list[float], int]:
    """One call: both heads, and how many bytes the answer has. Raises grpc.RpcError, OSError, RuntimeError."""
    if call.grpc:
        with grpc.insecure_channel(address) as channel:
            answer = channel.unary_unary(call.path)(call.body(row), timeout=TIMEOUT_S)
    else:
        answer = _post(address, call, row)
    return call.values(answer), len(answer)


def _post(address: str, call: Call, row: Sequence[float]) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        headers = dict(header.split(": ", 1) for header in call.headers)
        connection.request("POST", call.path, body=call.body(row), headers=headers)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{address}{call.path}: HTTP {response.status}: {answer[:200]!r}")
    return answer


def _floats(row: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(row)}f", *row)


@dataclass(frozen=True, slots=True)
class SeldonGrpc:
    """`data.tensor` of Seldon's protocol: float64 both ways."""

    path: str = "/seldon.protos.Model/Predict"
    headers: tuple[str, ...] = ()
    grpc: bool = True

    def body(self, row: Sequence[float]) -> bytes:
        request = SeldonMessage()
        request.meta.tags["taskId"].number_value = 111
        request.data.tensor.shape.extend([1, len(row)])
        request.data.tensor.values.extend(row)
        return request.SerializeToString()

    def values(self, answer: bytes) -> list[float]:
        return list(SeldonMessage.FromString(answer).data.tensor.values)


@dataclass(frozen=True, slots=True)
class V2Grpc:
    """KServe's V2 protocol with raw contents: float32 as bytes."""

    path: str = "/inference.GRPCInferenceService/ModelInfer"
    headers: tuple[str, ...] = ()
    grpc: bool = True

    def body(self, row: Sequence[float]) -> bytes:
        request = ModelInferRequest(model_name="mmoe")
        request.inputs.add(name="x", datatype="FP32", shape=[1, len(row)])
        request.raw_input_contents.append(_floats(row))
        return request.SerializeToString()

    def values(self, answer: bytes) -> list[float]:
        response = ModelInferResponse.FromString(answer)
        if response.raw_output_contents:
            return list(struct.unpack("<2f", response.raw_output_contents[0]))
        contents = response.outputs[0].contents
        return list(contents.fp32_contents or contents.fp64_contents)


@dataclass(frozen=True, slots=True)
class V2Http:
    """KServe's V2 protocol as JSON over HTTP/1.1."""

    path: str = "/v2/models/mmoe/infer"
    headers: tuple[str, ...] = ("Content-Type: application/json",)
    grpc: bool = False

    def body(self, row: Sequence[float]) -> bytes:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(row)], "data": list(row)}
        return json.dumps({"inputs": [tensor]}).encode()

    def values(self, answer: bytes) -> list[float]:
        return [float(value) for value in json.loads(answer)["outputs"][0]["data"]]


@dataclass(frozen=True, slots=True)
class RawHttp:
    """Raw float32 both ways over HTTP/1.1: the least that a server can be asked to parse."""

    path: str
    headers: tuple[str, ...] = ("Content-Type: application/octet-stream",)
    grpc: bool = False

    def body(self, row: Sequence[float]) -> bytes:
        return _floats(row)

    def values(self, answer: bytes) -> list[float]:
        return list(struct.unpack("<2f", answer))


@dataclass(frozen=True, slots=True)
class BentoHttp:
    """BentoML's JSON with a row as base64 of float32, in a list since BentoML joins lists when it batches."""

    path: str = "/predict"
    headers: tuple[str, ...] = ("Content-Type: application/json",)
    grpc: bool = False

    def body(self, row: Sequence[float]) -> bytes:
        return json.dumps({"rows": [base64.b64encode(_floats(row)).decode()]}).encode()

    def values(self, answer: bytes) -> list[float]:
        return list(struct.unpack("<2f", base64.b64decode(json.loads(answer)[0])))
