"""The system as it is shipped: the built PEXes as processes, real models, real gRPC."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from dl_inference import Client, InvalidInput, NotFound
from dl_inference.calls import pytorch

from e2e.system import (
    PEXES,
    SLOW_MODEL,
    TENSORFLOW_MODELS,
    TORCH_MODELS,
    Load,
    start_gateway,
    start_tensorflow,
    start_worker,
    write_nodes,
)
from examples.quickstart.processes import Processes
from examples.quickstart.requests import FEATURES, MMOE_TASK, Caller, rounds
from libs.proto.messages import PredictRequest, SeldonMessage
from libs.proto.services import WpaiDLPredictOnlineServiceStub

SLOW_TASK, HURRIED_TASK = 7, 8
ROW = np.zeros((1, FEATURES))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The TensorFlow and PyTorch models side by side, as the quickstart has them."""
    for source in (TORCH_MODELS, TENSORFLOW_MODELS):
        for model in source.iterdir():
            if not model.name.startswith("."):
                (tmp_path / model.name).symlink_to(model)
    return tmp_path


@pytest.fixture
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(PEXES, tmp_path_factory.mktemp("logs")) as group:
        yield group


@pytest.fixture
def mmoe(
    processes: Processes, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """Two mmoe workers behind a gateway."""
    workers = [start_worker(processes, f"mmoe-{number}", models / "mmoe") for number in (1, 2)]
    addresses = [worker.wait_ready() for worker in workers]
    nodes = tmp_path_factory.mktemp("nodes") / "nodes.txt"
    gateway = start_gateway(processes, nodes, {MMOE_TASK: addresses})
    caller = Caller(gateway.address)
    yield SimpleNamespace(gateway=gateway, workers=workers, addresses=addresses, nodes=nodes, caller=caller)
    caller.close()


def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_every_model_answers_as_it_does_when_loaded_directly(
    processes: Processes, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    backends = {
        39: start_worker(processes, "digits", models / "digits"),
        111: start_worker(processes, "mmoe", models / "mmoe"),
        69: start_tensorflow(processes, "textcnn", "textcnn-69", models / "textcnn"),
        70: start_tensorflow(processes, "half_plus_two", "half_plus_two-70", models / "half_plus_two"),
    }
    tasks = {task: [process.wait_ready()] for task, process in backends.items()}
    gateway = start_gateway(processes, tmp_path_factory.mktemp("nodes") / "nodes.txt", tasks)
    caller = Caller(gateway.address)
    answers = [ask() for ask in rounds(caller, models)]
    caller.close()
    assert {answer.model for answer in answers} == {"digits", "mmoe", "textcnn", "half_plus_two"}
    assert [answer for answer in answers if not answer.right] == []
    assert {answer.instance for answer in answers} == {hosts[0] for hosts in tasks.values()}


def test_killing_one_of_two_workers_under_load_loses_no_call(mmoe: SimpleNamespace) -> None:
    with Load(lambda: mmoe.caller.mmoe(ROW)[1]) as load:
        assert until(lambda: load.instances(0) == set(mmoe.addresses), 20), "both workers take traffic"
        mmoe.workers[0].kill()
        killed = time.monotonic()
        time.sleep(2.0)
    assert load.failures == []
    assert load.instances(killed + 1.0) == {mmoe.addresses[1]}
    assert len([at for at, _ in load.served if at > killed]) > 50


def test_the_client_gets_the_same_answers_by_the_gateway_and_directly(mmoe: SimpleNamespace) -> None:
    values = mmoe.caller.mmoe(ROW)[0]
    with Client(mmoe.gateway.address) as client, Client.direct(mmoe.nodes) as direct:
        for one in (client, direct):
            reply = one.call(pytorch(MMOE_TASK, ROW))
            assert np.ravel(reply.value.payload).tolist() == values
            assert reply.instance in mmoe.addresses
        with pytest.raises(NotFound, match="12345"):
            client.pytorch_predict(12345, ROW)
        with pytest.raises(InvalidInput):
            direct.pytorch_predict(MMOE_TASK, np.zeros((1, 3)))
        with Load(lambda: direct.call(pytorch(MMOE_TASK, ROW), timeout_s=5.0).instance) as load:
            assert until(lambda: load.instances(0) == set(mmoe.addresses), 20), "both workers take traffic"
            mmoe.workers[0].kill()
            killed = time.monotonic()
            time.sleep(2.0)
    assert load.failures == []
    assert load.instances(killed + 1.0) == {mmoe.addresses[1]}


def test_node_file_edit_moves_traffic_within_two_seconds(mmoe: SimpleNamespace) -> None:
    first, second = mmoe.addresses
    write_nodes(mmoe.nodes, {MMOE_TASK: [first]})
    with Load(lambda: mmoe.caller.mmoe(ROW)[1]) as load:
        assert until(lambda: load.instances(time.monotonic() - 0.3) == {first}, 20)
        write_nodes(mmoe.nodes, {MMOE_TASK: [second]})
        edited = time.monotonic()
        time.sleep(3.0)
    assert load.failures == []
    assert load.instances(edited + 2.0) == {second}


def test_bad_edit_changes_nothing(mmoe: SimpleNamespace) -> None:
    with Load(lambda: mmoe.caller.mmoe(ROW)[1], threads=1) as load:
        mmoe.nodes.write_text("111=soon,nowhere\n")
        time.sleep(1.5)
        assert until(lambda: "nodes.txt:1" in mmoe.gateway.tail(40), 10)
    assert load.failures == []
    assert load.instances(0) == set(mmoe.addresses)


def seldon(task: int) -> SeldonMessage:
    request = SeldonMessage()
    request.meta.tags["taskId"].number_value = task
    request.data.tensor.shape.extend([1, 1])
    request.data.tensor.values.extend([0.0])
    return request


def unanswered(worker: str) -> float:
    """Calls that reached the worker and that it let go because their time was over or their caller gone."""
    with urllib.request.urlopen(f"http://{worker}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("grpc_server_handled_total") and re.search("DeadlineExceeded|Cancel", line)
    )


@pytest.mark.parametrize("whose", ["caller's", "task's"])
def test_expired_call_never_reaches_the_model(
    processes: Processes, tmp_path_factory: pytest.TempPathFactory, whose: str
) -> None:
    worker = start_worker(processes, "slow", SLOW_MODEL).wait_ready()
    nodes = tmp_path_factory.mktemp("nodes") / "nodes.txt"
    gateway = start_gateway(
        processes, nodes, {SLOW_TASK: [worker], HURRIED_TASK: [worker]}, timeouts_ms={HURRIED_TASK: 5}
    )
    # A grpcio client ends its call itself at its own deadline; at the task's only the gateway can.
    hurried, timeout = (seldon(SLOW_TASK), 0.005) if whose == "caller's" else (seldon(HURRIED_TASK), 10)
    with grpc.insecure_channel(gateway.address) as channel:
        stub = WpaiDLPredictOnlineServiceStub(channel)
        before = stub.PytorchPredict(seldon(SLOW_TASK), timeout=10).data.tensor.values[0]
        occupying = stub.PytorchPredict.future(seldon(SLOW_TASK), timeout=10)
        time.sleep(0.1)  # the model is busy for a second: what comes now waits in the queue
        late = []
        for _ in range(10):
            started = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                stub.PytorchPredict(hurried, timeout=timeout)
            late.append(time.monotonic() - started)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert min(late) < 0.5, f"answered late: {late}"
        assert occupying.result(timeout=10).data.tensor.values[0] == before + 1
        after = stub.PytorchPredict(seldon(SLOW_TASK), timeout=10).data.tensor.values[0]
    assert after == before + 2, "the model ran for an expired call"
    assert unanswered(worker) >= 1, "no expired call came as far as the worker"


def test_gateway_drains_on_sigterm(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> None:
    worker = start_worker(processes, "slow", SLOW_MODEL)
    nodes = tmp_path_factory.mktemp("nodes") / "nodes.txt"
    gateway = start_gateway(processes, nodes, {SLOW_TASK: [worker.wait_ready()]})
    request = seldon(SLOW_TASK)
    with grpc.insecure_channel(gateway.address) as channel:
        stub = WpaiDLPredictOnlineServiceStub(channel)
        stub.PytorchPredict(request, timeout=10)
        in_flight = [stub.PytorchPredict.future(request, timeout=10) for _ in range(4)]
        time.sleep(0.1)
        gateway.terminate()
        for call in in_flight:
            assert call.result(timeout=15).data.tensor.values[0] > 0
    assert gateway.popen.wait(25) == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda request: request.model_spec.ClearField("name"), grpc.StatusCode.INVALID_ARGUMENT),
        (lambda request: setattr(request.model_spec, "name", "textcnn"), grpc.StatusCode.INVALID_ARGUMENT),
        (lambda request: setattr(request.model_spec, "name", "textcnn-404"), grpc.StatusCode.NOT_FOUND),
        (lambda request: setattr(request.model_spec, "name", "dead-5"), grpc.StatusCode.UNAVAILABLE),
        (
            lambda request: request.inputs["x"].CopyFrom(
                type(request.inputs["x"])(tensor_content=bytes(11 * 1024 * 1024))
            ),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ),
    ],
    ids=["no name", "no task id", "unknown task", "no instance", "oversize"],
)
def test_statuses(
    gateway_only: WpaiDLPredictOnlineServiceStub, change: Callable[[Any], None], code: grpc.StatusCode
) -> None:
    request = PredictRequest()
    request.model_spec.name = "dead-5"
    change(request)
    with pytest.raises(grpc.RpcError) as caught:
        gateway_only.Predict(request, timeout=5)
    assert caught.value.code() is code, caught.value.details()
    assert len(caught.value.details()) > 20, "the message says what to do"


@pytest.fixture(scope="module")
def gateway_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WpaiDLPredictOnlineServiceStub]:
    """A gateway whose only task has no living instance."""
    with Processes(PEXES, tmp_path_factory.mktemp("logs")) as group:
        gateway = start_gateway(group, tmp_path_factory.mktemp("nodes") / "nodes.txt", {5: ["127.0.0.1:1"]})
        with grpc.insecure_channel(gateway.address) as channel:
            yield WpaiDLPredictOnlineServiceStub(channel)
