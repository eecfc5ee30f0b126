"""The routing key is found in real Envoy, in bodies of every protocol, and nowhere else."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2

from libs.proto import messages
from services.gateway.methods import KSERVE, METHODS, PREDICTION, SELDON_MODEL, Key
from services.gateway.testing import (
    WPAI_PATH,
    Backend,
    GatewayProcess,
    backends,
    field_bytes,
    predict_request,
    varint,
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, dict[int, Backend]]]:
    """A gateway with the tasks 39, 69 and 2147483647, each on a backend of its own."""
    nodes: Path = tmp_path_factory.mktemp("routing") / "nodes.txt"
    with backends(3) as servers:
        tasks = dict(zip((39, 69, 2147483647), servers, strict=True))
        nodes.write_text("".join(f"{task}=5000,{server.address}\n" for task, server in tasks.items()))
        with GatewayProcess(nodes) as gateway:
            yield gateway, tasks


Setup = tuple[GatewayProcess, dict[int, Backend]]


def routed(setup: Setup, path: str, body: bytes, **how: object) -> tuple[int, str]:
    """The task and the method that a call reached. Raises AssertionError when it reached none."""
    gateway, tasks = setup
    before = {task: len(server.calls) for task, server in tasks.items()}
    answer = gateway.call(path, body, **how)  # type: ignore[arg-type]
    assert answer.code == grpc.StatusCode.OK, (answer.code, answer.message)
    assert answer.body == body
    (task,) = (t for t, server in tasks.items() if len(server.calls) > before[t])
    assert answer.metadata["x-dl-instance"] == tasks[task].address
    return task, tasks[task].calls[-1].method


def refused(setup: Setup, path: str, body: bytes, **how: object) -> str:
    answer = setup[0].call(path, body, **how)  # type: ignore[arg-type]
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT, (answer.code, answer.message)
    return answer.message


def seldon(task: object, **fields: Any) -> bytes:
    message = messages.SeldonMessage(**fields)
    value = message.meta.tags["taskId"]
    if isinstance(task, str):
        value.string_value = task
    elif isinstance(task, float | int):
        value.number_value = float(task)
    return bytes(message.SerializeToString())


def spec(name: str) -> bytes:
    request = messages.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = "prediction"
    request.inputs["sentence"].string_val.append(b"hello")
    return bytes(request.SerializeToString())


def test_the_four_methods_reach_the_backends_own(setup: Setup) -> None:
    infer = messages.ModelInferRequest(model_name="resnet-39", raw_input_contents=[bytes(1000)])
    assert routed(setup, WPAI_PATH + "Predict", spec("textcnn-69")) == (69, f"/{PREDICTION}/Predict")
    assert routed(setup, WPAI_PATH + "PytorchPredict", seldon(39, binData=b"png")) == (
        39,
        f"/{SELDON_MODEL}/Predict",
    )
    assert routed(setup, WPAI_PATH + "CaffePredict", seldon("69")) == (69, f"/{SELDON_MODEL}/Predict")
    assert routed(setup, WPAI_PATH + "TisPredict", infer.SerializeToString()) == (39, f"/{KSERVE}/ModelInfer")


@pytest.mark.parametrize(
    "method",
    [m for m in METHODS if m.key in (Key.SPEC, Key.NAME, Key.TASKS, Key.FEEDBACK, Key.META)],
    ids=lambda m: m.path.rpartition(".")[2],
)
def test_every_method_with_a_name_in_its_body(setup: Setup, method: object) -> None:
    bodies = {
        Key.NAME: field_bytes(1, b"m-69"),
        Key.SPEC: predict_request("m-69"),
        Key.TASKS: field_bytes(1, predict_request("m-69")),
        Key.META: seldon(69),
        Key.FEEDBACK: field_bytes(1, seldon(69)),
    }
    key, path, target = method.key, method.path, method.target  # type: ignore[attr-defined]
    assert routed(setup, path, bodies[key]) == (69, target)


@pytest.mark.parametrize("name", ["69", "a-69", "a-b-69", "中文-69", "a--69", "a-0069", "x" * 3000 + "-69"])
def test_the_task_is_the_digits_after_the_last_dash(setup: Setup, name: str) -> None:
    assert routed(setup, WPAI_PATH + "Predict", spec(name))[0] == 69


@pytest.mark.parametrize("task", [39.0, 69.0, 2147483647.0, "39", "0069"])
def test_a_tag_is_a_number_or_digits(setup: Setup, task: float | str) -> None:
    assert routed(setup, WPAI_PATH + "PytorchPredict", seldon(task))[0] == int(task)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "textcnn",
        "textcnn-",
        "textcnn-6a",
        "-",
        "69-textcnn",
        "a-0",
        "a-2147483648",
        "a-99999999999999999999",
        "a-六九",
        "a- 69",
        "a" + "0" * 80 + "69",
    ],
)
def test_a_name_without_a_task_is_refused_by_name(setup: Setup, name: str) -> None:
    message = refused(setup, WPAI_PATH + "Predict", spec(name))
    assert "model_spec.name" in message
    assert "like textcnn-69" in message or "has no" in message


@pytest.mark.parametrize(
    "task",
    [39.5, -39.0, 0.0, 2147483648.0, float("nan"), float("inf"), 1e300, 5e-324, "", "x", "-1", "6 9", None],
)
def test_a_tag_that_is_no_task_is_refused(setup: Setup, task: object) -> None:
    assert "taskId" in refused(setup, WPAI_PATH + "PytorchPredict", seldon(task))


def test_other_tags_and_data_before_the_meta_do_not_matter(setup: Setup) -> None:
    message = messages.SeldonMessage()
    message.meta.puid = "p" * 500
    for name in ("TaskId", "taskid", "taskIdx", "a", "z"):
        message.meta.tags[name].number_value = 39
    message.meta.tags["list"].list_value.values.append(struct_list_value(message))
    meta = message.meta.SerializeToString() + field_bytes(
        2, field_bytes(1, b"taskId") + field_bytes(2, b"\x11" + struct.pack("<d", 69))
    )
    body = field_bytes(4, bytes(100_000)) + field_bytes(2, meta)
    assert routed(setup, WPAI_PATH + "PytorchPredict", body)[0] == 69


def struct_list_value(message: messages.SeldonMessage) -> Any:
    value = message.meta.tags["other"]
    value.string_value = struct_pb2.Value(string_value="taskId").string_value
    return value


def test_a_repeated_tag_counts_as_protobuf_counts_it(setup: Setup) -> None:
    def entry(task: float) -> bytes:
        return field_bytes(2, field_bytes(1, b"taskId") + field_bytes(2, b"\x11" + struct.pack("<d", task)))

    assert routed(setup, WPAI_PATH + "PytorchPredict", field_bytes(2, entry(39) + entry(69)))[0] == 69


@pytest.mark.parametrize("size", [0, 1, 200, 16_384, 70_000, 3_000_000])
def test_bodies_of_any_number_of_frames(setup: Setup, size: int) -> None:
    assert routed(setup, WPAI_PATH + "Predict", predict_request("textcnn-69", bytes(size)))[0] == 69


def test_the_header_routes_and_the_body_is_not_looked_at(setup: Setup) -> None:
    header = [("x-dl-task", "69")]
    assert routed(setup, WPAI_PATH + "Predict", b"\xff\xff not protobuf", metadata=header)[0] == 69
    assert routed(setup, WPAI_PATH + "Predict", spec("textcnn-39"), metadata=header)[0] == 69
    assert routed(setup, f"/{KSERVE}/ServerReady", b"", metadata=header) == (69, f"/{KSERVE}/ServerReady")


@pytest.mark.parametrize("value", ["gateway", "textcnn-69", "-1", "0", "6 9", "2147483648", "69,39"])
def test_a_header_that_is_no_task_is_refused(setup: Setup, value: str) -> None:
    assert "x-dl-task" in refused(
        setup, WPAI_PATH + "Predict", spec("textcnn-69"), metadata=[("x-dl-task", value)]
    )


def test_two_headers_do_not_smuggle(setup: Setup) -> None:
    refused(setup, WPAI_PATH + "Predict", b"", metadata=[("x-dl-task", "69"), ("x-dl-task", "gateway")])


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize(
    "payload",
    [b"", bytes(50_000), b"abc" * 1000, str(list(range(3000))).encode(), random.Random(1).randbytes(500)],
    ids=len,
)
def test_compressed_requests(setup: Setup, compression: grpc.Compression, payload: bytes) -> None:
    body = predict_request("textcnn-69", payload)
    assert routed(setup, WPAI_PATH + "Predict", body, compression=compression)[0] == 69
    late = field_bytes(4, payload) + seldon(39)
    assert routed(setup, WPAI_PATH + "PytorchPredict", late, compression=compression)[0] == 39


def test_a_compressed_request_with_its_key_out_of_reach_says_what_to_do(setup: Setup) -> None:
    body = field_bytes(4, bytes(200_000)) + seldon(39)
    assert "x-dl-task" in refused(
        setup, WPAI_PATH + "PytorchPredict", body, compression=grpc.Compression.Gzip
    )
    assert (
        routed(
            setup,
            WPAI_PATH + "PytorchPredict",
            body,
            compression=grpc.Compression.Gzip,
            metadata=[("x-dl-task", "39")],
        )[0]
        == 39
    )


def test_a_stream_needs_the_header_and_then_flows_both_ways(setup: Setup) -> None:
    gateway, tasks = setup
    stub = gateway.channel.stream_stream(f"/{KSERVE}/ModelStreamInfer")
    with pytest.raises(grpc.RpcError) as error:
        next(stub(iter([b"x"]), timeout=5))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    answered, received = threading.Event(), []

    def requests() -> Iterator[bytes]:
        yield b"one"
        assert answered.wait(4)  # the second message is sent after the first answer: nothing is held back
        yield b"two"

    for reply in stub(requests(), timeout=5, metadata=[("x-dl-task", "39")]):
        received.append(reply)
        answered.set()
    assert received == [b"one", b"two"]
    assert tasks[39].calls[-1].body == b"two"


def test_malformed_messages_get_a_status_whatever_they_are(setup: Setup) -> None:
    rng = random.Random(69)
    samples = [
        spec("textcnn-69"),
        seldon(39, binData=b"x" * 50),
        field_bytes(1, b"a-69") + field_bytes(5, b"y" * 40),
    ]
    paths = [WPAI_PATH + "Predict", WPAI_PATH + "PytorchPredict", WPAI_PATH + "TisPredict"]
    expected = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    for sample, path in zip(samples, paths, strict=True):
        for length in range(len(sample)):
            assert setup[0].call(path, sample[:length]).code in expected
        for _ in range(150):
            mutated = bytearray(sample)
            for _ in range(rng.randint(1, 4)):
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
            assert setup[0].call(path, bytes(mutated)).code in expected
            compressed = setup[0].call(path, bytes(mutated), compression=grpc.Compression.Gzip)
            assert compressed.code in expected
    assert routed(setup, paths[0], samples[0])[0] == 69


def test_a_message_of_a_million_tiny_fields_is_refused_quickly(setup: Setup) -> None:
    answer = setup[0].call(WPAI_PATH + "PytorchPredict", (varint(9 << 3) + b"\x00") * 1_000_000)
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT
    assert answer.took_s < 4
