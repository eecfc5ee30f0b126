"""The access log and the spans of the real Envoy: what they hold, of which calls, and what never."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import pytest

from libs.balancing.endpoint import Endpoint
from services.gateway.table import AccessLog, Edge, LogWhen, Tracing
from services.gateway.testing import WPAI_PATH, Answer, Backend, call, eventually, predict_request
from services.gateway.testing_edge import EdgeEnvoy, table_of, task_of

PREDICT = WPAI_PATH + "Predict"
SECRET = "do-not-write-this-anywhere"


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend() as found:
        yield found


def predict(channel: grpc.Channel, name: str, *metadata: tuple[str, str], timeout: float = 5) -> Answer:
    return call(channel, PREDICT, predict_request(name, SECRET.encode()), metadata=metadata, timeout=timeout)


def lines(path: Path, count: int) -> list[dict[str, Any]]:
    """The lines of the log, once there are as many."""
    eventually(
        lambda: path.exists() and path.read_text().count("\n") >= count, f"{count} lines in the log", 15
    )
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the access log ---


def test_a_line_a_call(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    edge = Edge(access_log=AccessLog(str(path), LogWhen.ALL))
    with EdgeEnvoy(table_of(backend.address, task_of(69), edge=edge)) as envoy, envoy.channel() as channel:
        given = predict(channel, "textcnn-69", ("x-request-id", "mine"), ("authorization", SECRET))
        made = predict(channel, "textcnn-69")
        assert predict(channel, "textcnn-7").code == grpc.StatusCode.NOT_FOUND
        ran = subprocess.run(
            [
                "curl",
                "-sS",
                "-m",
                "10",
                "-d",
                '{"modelSpec": {"name": "a-69"}}',
                f"http://{envoy.address}{PREDICT}",
            ],
            check=True,
            capture_output=True,
            timeout=20,
        )
        assert ran.stdout
        first, second, unknown, by_json = lines(path, 4)
    size = len(predict_request("textcnn-69", SECRET.encode())) + 5
    assert first["task"] == "69"
    assert first["method"] == "/tensorflow.serving.PredictionService/Predict"
    assert first["instance"] == backend.address
    assert (first["status"], first["status_code"]) == ("OK", 0)
    assert (first["bytes_in"], first["bytes_out"]) == (size, size)
    assert 0 <= first["instance_ms"] <= first["duration_ms"] < 5000
    assert first["attempts"] == 1
    assert first["caller"].startswith("127.0.0.1:")
    assert first["time"].endswith("Z")
    assert first["request_id"] == "mine"
    assert given.metadata["x-request-id"] == "mine"
    assert backend.calls[0].metadata["x-request-id"] == "mine"
    assert second["request_id"] == made.metadata["x-request-id"] and len(second["request_id"]) == 36
    assert (unknown["task"], unknown["status"]) == ("7", "NotFound")
    assert unknown["instance"] is None and unknown["instance_ms"] is None
    assert (by_json["protocol"], by_json["task"]) == ("HTTP/1.1", "69")
    assert SECRET not in path.read_text()


def test_only_failed_calls_when_asked_for_those(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    edge = Edge(access_log=AccessLog(str(path), LogWhen.ERRORS))
    with EdgeEnvoy(table_of(backend.address, task_of(69), edge=edge)) as envoy, envoy.channel() as channel:
        for _ in range(5):
            assert predict(channel, "textcnn-69").code == grpc.StatusCode.OK
        backend.status = grpc.StatusCode.INTERNAL
        try:
            predict(channel, "textcnn-69")
        finally:
            backend.status = grpc.StatusCode.OK
        predict(channel, "textcnn")
        found = lines(path, 2)
    assert [line["status"] for line in found] == ["Internal", "InvalidArgument"]


def test_a_sample_of_the_good_calls_and_all_of_the_others(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    edge = Edge(access_log=AccessLog(str(path), LogWhen.ALL, 10.0))
    with EdgeEnvoy(table_of(backend.address, task_of(69), edge=edge)) as envoy, envoy.channel() as channel:
        for _ in range(400):
            predict(channel, "textcnn-69")
        for _ in range(20):
            predict(channel, "textcnn-7")
        eventually(lambda: path.exists() and path.read_text().count("NotFound") == 20, "the failed calls", 15)
        found = lines(path, 20)
    # 40 expected; five standard deviations of 6 to either side.
    assert 10 <= sum(line["status"] == "OK" for line in found) <= 70


def test_without_a_log_no_request_id_is_made(backend: Backend) -> None:
    with EdgeEnvoy(table_of(backend.address, task_of(69))) as envoy, envoy.channel() as channel:
        answer = predict(channel, "textcnn-69")
        assert "x-request-id" not in answer.metadata
        assert "x-request-id" not in backend.calls[-1].metadata
        predict(channel, "textcnn-69", ("x-request-id", "mine"))
        assert backend.calls[-1].metadata["x-request-id"] == "mine"


# --- spans ---


def fields(message: bytes) -> list[tuple[int, Any]]:
    """The fields of a protobuf message: numbers, or bytes."""
    found: list[tuple[int, Any]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
        else:
            size = {1: 8, 5: 4}.get(tag & 7) or varint()
            found.append((tag >> 3, message[at : at + size]))
            at += size
    return found


def every(message: bytes, *path: int) -> list[Any]:
    """The values of a field by its path of numbers."""
    found: list[Any] = [message]
    for number in path:
        found = [value for outer in found for n, value in fields(outer) if n == number]
    return found


def attributes(message: bytes, number: int) -> dict[str, Any]:
    """opentelemetry.proto.common.v1.KeyValue: key is 1, value is 2, which holds a string (1) or another kind."""
    pairs = every(message, number)
    values = {every(pair, 1)[0].decode(): fields(every(pair, 2)[0])[0][1] for pair in pairs}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


@dataclass(slots=True)
class Span:
    """opentelemetry.proto.trace.v1.Span."""

    trace: str
    parent: str
    name: str
    attributes: dict[str, Any]
    service: str


class Collector(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """An OTLP receiver over gRPC."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[self])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if details.method != "/opentelemetry.proto.collector.trace.v1.TraceService/Export":
            return None
        return grpc.unary_unary_rpc_method_handler(self._export)

    def _export(self, request: bytes, context: object) -> bytes:
        with self._lock:
            for resource in every(request, 1):
                service = attributes(every(resource, 1)[0], 1).get("service.name", "")
                for span in every(resource, 2, 2):
                    self.spans.append(
                        Span(
                            every(span, 1)[0].hex(),
                            b"".join(every(span, 4)).hex(),
                            every(span, 5)[0].decode(),
                            attributes(span, 9),
                            service,
                        )
                    )
        return b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()


def tracing(collector: Collector, percent: float) -> Edge:
    return Edge(tracing=Tracing(Endpoint("127.0.0.1", collector.port), percent, "test-gateway"))


def test_spans_continue_the_callers_trace(backend: Backend) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with Collector() as collector:
        table = table_of(backend.address, task_of(69), edge=tracing(collector, 0.0))
        with EdgeEnvoy(table) as envoy, envoy.channel() as channel:
            answer = predict(channel, "textcnn-69", ("traceparent", f"00-{trace}-{parent}-01"))
            assert answer.code == grpc.StatusCode.OK
            continued = backend.calls[-1].metadata["traceparent"]
            assert continued.startswith(f"00-{trace}-") and continued.endswith("-01")
            assert parent not in continued
            # One that the caller does not record is not recorded here.
            predict(channel, "textcnn-69", ("traceparent", f"00-{'1' * 32}-{parent}-00"))
            predict(channel, "textcnn-7", ("traceparent", f"00-{trace}-{parent}-01"))
            eventually(lambda: len(collector.spans) >= 2, "two spans", 15)
    assert [(span.trace, span.parent) for span in collector.spans] == [(trace, parent)] * 2
    good, bad = collector.spans
    assert good.service == "test-gateway"
    assert good.attributes["dl.task"] == "69"
    assert good.attributes["grpc.status_code"] == "0"
    assert good.attributes["upstream_cluster.name"] == "task-69"
    assert bad.attributes["dl.task"] == "7"
    assert bad.attributes["grpc.status_code"] == "5"
    assert SECRET not in str(collector.spans)


def test_a_share_of_the_calls_is_traced(backend: Backend) -> None:
    with Collector() as collector:
        with (
            EdgeEnvoy(table_of(backend.address, task_of(69), edge=tracing(collector, 20.0))) as envoy,
            envoy.channel() as channel,
        ):
            for _ in range(400):
                assert (
                    predict(channel, "textcnn-69", ("x-request-id", "always-the-same")).code
                    == grpc.StatusCode.OK
                )
            eventually(lambda: len(collector.spans) >= 40, "the spans", 15)
        # 80 expected; five standard deviations of 8 to either side.
        assert 40 <= len(collector.spans) <= 120


def test_a_collector_that_is_down_costs_no_call(backend: Backend) -> None:
    with Collector() as gone:
        edge = tracing(gone, 100.0)
    with EdgeEnvoy(table_of(backend.address, task_of(69), edge=edge)) as envoy, envoy.channel() as channel:
        answers = [predict(channel, "textcnn-69") for _ in range(100)]
    assert {answer.code for answer in answers} == {grpc.StatusCode.OK}
    assert sum(answer.took_s for answer in answers) < 30  # a second each, if they waited for its timeout
