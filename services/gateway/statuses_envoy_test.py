"""Every way that a call can fail gives the status and the message that the caller needs."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
import urllib.error
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from libs.proto import messages
from services.gateway.methods import KSERVE, WPAI
from services.gateway.own_services import MAX_STREAMS
from services.gateway.testing import (
    WPAI_PATH,
    Backend,
    GatewayProcess,
    backends,
    eventually,
    free_port,
    predict_request,
)

pytestmark = pytest.mark.timeout(60)

MIB = 1 << 20


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, Backend]]:
    """Task 1 echoes; 2 does too, within 2 s; 3 is down; 4 has a name without an address."""
    nodes = tmp_path_factory.mktemp("statuses") / "nodes.txt"
    with backends(1) as (backend,):
        nodes.write_text(
            f"1=20000,{backend.address}\n2=2000,{backend.address}\n3=20000,127.0.0.1:{free_port()},"
            f"127.0.0.1:{free_port()}\n4=20000,no-such-host.invalid:80\n"
        )
        with GatewayProcess(nodes) as gateway:
            yield gateway, backend


@pytest.fixture(autouse=True)
def fresh(setup: tuple[GatewayProcess, Backend]) -> Iterator[None]:
    yield
    setup[1].delay_s, setup[1].status = 0.0, grpc.StatusCode.OK


Setup = tuple[GatewayProcess, Backend]


def test_an_unknown_task_is_not_found_and_reaches_nobody(setup: Setup) -> None:
    gateway, backend = setup
    before = len(backend.calls)
    answer = gateway.predict("textcnn-7")
    assert answer.code == grpc.StatusCode.NOT_FOUND
    assert "task 7 is not configured in this gateway" in answer.message
    assert len(backend.calls) == before


def test_an_unknown_method_is_unimplemented(setup: Setup) -> None:
    for path in (
        "/nobody.Knows/This",
        WPAI_PATH + "Nothing",
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
    ):
        answer = setup[0].call(path, predict_request("a-1"), metadata=[("x-dl-task", "1")])
        assert answer.code == grpc.StatusCode.UNIMPLEMENTED
        assert path in answer.message


@pytest.mark.parametrize("task", [3, 4])
def test_no_instance_is_unavailable_at_once(setup: Setup, task: int) -> None:
    answer = setup[0].predict(f"a-{task}", timeout=None)
    assert answer.code == grpc.StatusCode.UNAVAILABLE
    assert f"task {task}" in answer.message
    assert "correct its addresses" in answer.message
    assert answer.took_s < 10  # not the deadline of 20


def test_the_size_limit_is_exact(setup: Setup) -> None:
    gateway, _ = setup
    overhead = len(predict_request("a-1", bytes(10 * MIB))) - 10 * MIB
    largest = predict_request("a-1", bytes(10 * MIB - overhead))
    assert len(largest) == 10 * MIB
    assert gateway.call(WPAI_PATH + "Predict", largest).code == grpc.StatusCode.OK
    for metadata in ((), (("x-dl-task", "1"),)):
        answer = gateway.call(WPAI_PATH + "Predict", largest + b"x", metadata=metadata)
        assert answer.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "10485760 bytes" in answer.message


def test_metadata_that_is_too_large_fails_its_call_and_no_other(setup: Setup) -> None:
    # HTTP/2 has no way to answer headers that are not read: the stream is reset, the connection lives on.
    answer = setup[0].call(WPAI_PATH + "Predict", predict_request("a-1"), metadata=[("big", "x" * 50_000)])
    assert answer.code == grpc.StatusCode.INTERNAL
    assert setup[0].predict("a-1").code == grpc.StatusCode.OK


def test_a_late_answer_is_deadline_exceeded_at_the_tasks_timeout(setup: Setup) -> None:
    gateway, backend = setup
    backend.delay_s = 8.0
    for timeout in (None, 30.0):
        answer = gateway.predict("a-2", timeout=timeout)
        assert answer.code == grpc.StatusCode.DEADLINE_EXCEEDED
        # The backend was told the deadline and may notice it first.
        assert "task 2 did not answer in time" in answer.message or answer.message == "Deadline Exceeded"
        assert 1.9 < answer.took_s < backend.delay_s - 1
        assert answer.metadata["x-dl-instance"] == backend.address


def test_a_callers_shorter_deadline_holds(setup: Setup) -> None:
    gateway, backend = setup
    backend.delay_s = 8.0
    before = len(backend.calls)
    answer = gateway.predict("a-1", timeout=1.5)
    assert answer.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert answer.took_s < backend.delay_s - 1
    (seen,) = backend.calls[before:]
    assert seen.time_left_s is not None
    assert seen.time_left_s <= 1.52


@pytest.mark.parametrize(
    ("task", "timeout", "most"), [(1, None, 20.0), (1, 8.0, 8.0), (2, 8.0, 2.0), (2, None, 2.0)]
)
def test_the_backend_sees_the_time_that_is_left(
    setup: Setup, task: int, timeout: float | None, most: float
) -> None:
    gateway, backend = setup
    assert gateway.predict(f"a-{task}", timeout=timeout).code == grpc.StatusCode.OK
    left = backend.calls[-1].time_left_s
    assert left is not None
    assert most - 4 < left <= most * 1.01  # clients round the deadline that they send


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
    ],
)
def test_a_backends_own_status_passes_unchanged(setup: Setup, code: grpc.StatusCode) -> None:
    gateway, backend = setup
    backend.status = code
    answer = gateway.predict("a-1")
    assert (answer.code, answer.message) == (code, "as told")
    assert answer.metadata["x-dl-instance"] == backend.address


def test_callers_cannot_change_timeouts_or_retries(setup: Setup) -> None:
    gateway, backend = setup
    backend.delay_s = 0.1
    for headers in (
        [("x-envoy-upstream-rq-timeout-ms", "1")],
        [("x-envoy-upstream-rq-timeout-ms", "1"), ("x-forwarded-for", "10.0.0.1")],
        [("x-envoy-upstream-rq-timeout-ms", "1"), ("x-forwarded-for", "127.0.0.1")],
        # What stands for nobody in documentation.
        [("x-envoy-upstream-rq-timeout-ms", "1"), ("x-forwarded-for", "192.0.2.0")],
        [("x-envoy-max-retries", "9"), ("x-envoy-retry-on", "5xx")],
    ):
        assert (
            gateway.call(WPAI_PATH + "Predict", predict_request("a-1"), metadata=headers).code
            == grpc.StatusCode.OK
        )
        seen = dict(backend.calls[-1].metadata)
        assert not [name for name in seen if name.startswith("x-envoy")]
        assert seen.get("x-forwarded-for") == dict(headers).get("x-forwarded-for")


def test_what_is_not_grpc_gets_a_clear_http_error(setup: Setup) -> None:
    for method, body, kind in (
        ("GET", None, "text/html"),
        ("POST", "{}", "application/json"),
    ):
        connection = http.client.HTTPConnection(setup[0].address, timeout=5)
        with contextlib.closing(connection):
            connection.request(method, "/", body, {"content-type": kind})
            response = connection.getresponse()
            assert response.status == 415
            assert b"speaks gRPC" in response.read()


def test_http2_without_grpc_gets_a_clear_error(setup: Setup) -> None:
    host, _, port = setup[0].address.rpartition(":")
    # RFC 9113, 7541: the preface, empty SETTINGS, HEADERS of stream 1 (END_STREAM, END_HEADERS) with the static
    # table's entries for GET, http and /, and a literal :authority.
    fields = b"\x82\x86\x84\x41\x01x"
    frames = b"\0\0\0\4\0\0\0\0\0" + bytes([0, 0, len(fields), 1, 5, 0, 0, 0, 1]) + fields
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames)
        received = b""
        while b"speaks gRPC" not in received:
            more = connection.recv(4096)
            assert more, "the connection ended without a word"
            received += more


def test_health_of_the_gateway_and_of_each_task(setup: Setup) -> None:
    health = health_pb2_grpc.HealthStub(setup[0].channel)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    for service, status in (("", serving), (WPAI, serving), ("1", serving), ("4", not_serving)):
        assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status == status
    eventually(
        lambda: health.Check(health_pb2.HealthCheckRequest(service="3"), timeout=5).status == not_serving,
        "a task whose instances are down is NOT_SERVING",
    )
    for service in ("nobody", "7", "٣", "9" * 5000):
        with pytest.raises(grpc.RpcError) as error:
            health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="1"), timeout=5)
    assert next(watch).status == serving
    watch.cancel()


def test_watchers_do_not_crowd_out_health_checks(setup: Setup) -> None:
    gateway, _ = setup
    channels = [
        grpc.insecure_channel(gateway.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(3)
    ]
    request = health_pb2.HealthCheckRequest()
    watches = [health_pb2_grpc.HealthStub(channels[i % 3]).Watch(request) for i in range(700)]

    def refused() -> int:
        return sum(watch.done() and watch.code() == grpc.StatusCode.RESOURCE_EXHAUSTED for watch in watches)

    eventually(lambda: refused() >= 700 - MAX_STREAMS, "the watches beyond the limit are refused", 30)
    assert (
        health_pb2_grpc.HealthStub(channels[0]).Check(request, timeout=5).status
        == health_pb2.HealthCheckResponse.SERVING
    )
    assert refused() == 700 - MAX_STREAMS
    for channel in channels:
        channel.close()


def test_kserves_server_methods_are_the_gateways(setup: Setup) -> None:
    for name, reply in (
        ("ServerLive", messages.ServerLiveResponse(live=True)),
        ("ServerReady", messages.ServerReadyResponse(ready=True)),
    ):
        answer = setup[0].call(f"/{KSERVE}/{name}", b"")
        assert answer.body == reply.SerializeToString()
        assert "x-dl-instance" not in answer.metadata
    metadata = messages.ServerMetadataResponse.FromString(
        setup[0].call(f"/{KSERVE}/ServerMetadata", b"").body
    )
    assert metadata.name == "dl_inference gateway"


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
def test_reflection_lists_and_describes_the_services(setup: Setup, version: str) -> None:
    stub = setup[0].channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=WPAI),
    ]
    replies = [
        reflection_pb2.ServerReflectionResponse.FromString(raw)
        for raw in stub(iter([r.SerializeToString() for r in requests]), timeout=5)
    ]
    assert WPAI in [service.name for service in replies[0].list_services_response.service]
    assert len(replies[1].file_descriptor_response.file_descriptor_proto) >= 3


def test_a_reflection_client_builds_the_service(setup: Setup) -> None:
    database = ProtoReflectionDescriptorDatabase(setup[0].channel)
    assert "seldon.protos.Model" in database.get_services()
    file = database.FindFileContainingSymbol(WPAI)
    assert [m.name for m in file.service[0].method] == [
        "Predict",
        "PytorchPredict",
        "CaffePredict",
        "TisPredict",
    ]


def test_the_admin_pages(setup: Setup) -> None:
    gateway, _ = setup
    gateway.predict("a-1")
    status = gateway.status()
    assert status["gateway"]["ready"] is True
    assert status["config"]["accepted"] is True
    assert status["config"]["unresolved"].keys() == {"no-such-host.invalid"}
    assert status["tasks"]["1"]["instances"][0]["health"] == "healthy"
    assert status["tasks"]["1"]["instances"][0]["requests"] >= 1
    assert status["tasks"]["4"]["instances"] == []
    page = gateway.admin("/").decode()
    assert setup[1].address in page
    assert "no-such-host.invalid" in page
    metrics = gateway.admin("/metrics").decode()
    assert "dl_gateway_tasks 4\n" in metrics
    counted = f'dl_gateway_instance_calls_total{{pool="task-1",instance="{setup[1].address}",outcome="ok"}}'

    def is_counted() -> bool:
        gateway.predict("a-1")
        return counted in gateway.admin("/metrics").decode()

    eventually(is_counted, "the reported calls are counted")
    assert 'envoy_cluster_name="task-1"' in gateway.admin("/envoy/stats").decode()
    assert gateway.admin("/ready") == b"ready\n"
    with pytest.raises(urllib.error.HTTPError) as missing:
        gateway.admin("/nothing")
    assert missing.value.code == 404
    assert b"/status.json" in missing.value.read()


def test_a_silent_admin_client_does_not_block_others(setup: Setup) -> None:
    with socket.create_connection(("127.0.0.1", setup[0].admin_port)):
        started = time.monotonic()
        assert setup[0].admin("/ready") == b"ready\n"
        assert time.monotonic() - started < 5
