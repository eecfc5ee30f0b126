"""End to end: the command in a process of its own, driven by real grpcio clients."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from libs.proto.messages import DataType, SeldonMessage
from services.torch_worker.testing import DOUBLER, make_folder
from services.torch_worker.testing_process import START_S, Running, command, worker

# Waits as long as the request's first value says (seconds), and writes down the rows of every call.
SLOW = """
import time
from pathlib import Path
import torch
from torch import nn

class Slow(nn.Module):
    def forward(self, x):
        with Path(__file__).with_name("calls.txt").open("a") as f:
            f.write(f"{len(x)}\\n")
        time.sleep(float(x.max()))
        return x * 2
"""

# Every kind comes back as what the hooks saw; with the number of requests of its model call.
PROCESSOR = """
import numpy as np
import torch

def preprocess(x, **kwargs):
    if kwargs["meta"]["tags"].get("fail") == "value":
        raise ValueError("not today")
    if kwargs["meta"]["tags"].get("fail") == "key":
        raise KeyError("gone")
    kwargs["meta"]["seen"] = x
    return torch.zeros(1, 3)

def postprocess(x, **kwargs):
    seen = kwargs["meta"]["seen"]
    if isinstance(seen, np.ndarray):
        return seen * 10 if seen.dtype.kind == "f" else seen
    return seen
"""


def tensor(array: Any, **tags: Any) -> SeldonMessage:
    array = np.asarray(array, dtype=np.float64)
    message = SeldonMessage()
    message.data.tensor.shape.extend(array.shape)
    message.data.tensor.values.extend(array.ravel().tolist())
    return tagged(message, **tags)


def tagged(message: SeldonMessage, **tags: Any) -> SeldonMessage:
    for key, value in tags.items():
        if isinstance(value, str):
            message.meta.tags[key].string_value = value
        else:
            message.meta.tags[key].number_value = value
    return message


@pytest.fixture(scope="module")
def doubler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with worker(make_folder(tmp_path_factory.mktemp("m") / "doubler", DOUBLER, "Doubler()")) as running:
        yield running


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = make_folder(tmp_path_factory.mktemp("m") / "hooked", DOUBLER, "Doubler()", processor=PROCESSOR)
    with worker(folder) as running:
        yield running


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = make_folder(
        tmp_path_factory.mktemp("m") / "slow", SLOW, "Slow()", config="[model]\nbatchable = true\n"
    )
    with worker(folder, "--max-queue", "64") as running:
        yield running


def calls(running: Running) -> list[int]:
    file = running.log.parent / "slow" / "calls.txt"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_tensors_through_both_services(doubler: Running) -> None:
    request = tensor([[1, 2, 3], [4, 5, 6]], taskId=39)
    request.meta.puid = "id-1"
    for answer in (doubler.predict(request), doubler.seldon.Predict(request, timeout=20)):
        assert list(answer.data.tensor.shape) == [2, 3]
        assert list(answer.data.tensor.values) == [3, 5, 7, 9, 11, 13]
        assert list(answer.data.names) == ["t:0", "t:1", "t:2"]
        assert answer.meta.puid == "id-1" and answer.meta.tags["taskId"].number_value == 39


def test_ndarray_and_tftensor_are_answered_in_kind(doubler: Running) -> None:
    request = SeldonMessage()
    row = request.data.ndarray.values.add().list_value
    for value in (1.0, 2.0, 3.0):
        row.values.add(number_value=value)
    answer = doubler.predict(request)
    assert [v.number_value for v in answer.data.ndarray.values[0].list_value.values] == [3, 5, 7]

    request = SeldonMessage()
    request.data.tftensor.dtype = DataType.DT_FLOAT
    request.data.tftensor.tensor_shape.dim.add(size=1)
    request.data.tftensor.tensor_shape.dim.add(size=3)
    request.data.tftensor.tensor_content = np.array([1, 2, 3], np.float32).tobytes()
    answer = doubler.predict(request)
    assert (
        answer.data.WhichOneof("data_oneof") == "tftensor" and answer.data.tftensor.dtype == DataType.DT_FLOAT
    )
    content = (
        answer.data.tftensor.tensor_content or np.array(answer.data.tftensor.float_val, np.float32).tobytes()
    )
    assert np.frombuffer(content, np.float32).tolist() == [3, 5, 7]


def test_other_kinds_reach_the_hooks_and_come_back(hooked: Running) -> None:
    assert hooked.predict(SeldonMessage(binData=b"\x00\xff")).binData == b"\x00\xff"
    assert hooked.predict(SeldonMessage(strData="字")).strData == "字"
    message = SeldonMessage()
    message.jsonData.struct_value.fields["a"].list_value.values.add(number_value=1.5)
    answer = hooked.predict(message)
    assert answer.jsonData.struct_value.fields["a"].list_value.values[0].number_value == 1.5
    assert list(hooked.predict(tensor([[1, 2]])).data.tensor.values) == [10, 20]


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (SeldonMessage(), "INVALID_ARGUMENT", "carries no payload"),
        (SeldonMessage(strData="x"), "INVALID_ARGUMENT", "takes arrays of numbers"),
        (tensor([[1.0, 2.0]]), "INVALID_ARGUMENT", "does not take float64 of shape (n, 2)"),
    ],
)
def test_bad_input(doubler: Running, message: SeldonMessage, code: str, text: str) -> None:
    doubler.predict(tensor([[1.0, 2.0, 3.0]]))
    with pytest.raises(grpc.RpcError) as caught:
        doubler.predict(message)
    assert caught.value.code().name == code and text in caught.value.details()


def test_a_shape_that_contradicts_the_values(doubler: Running) -> None:
    message = tensor([[1.0, 2.0, 3.0]])
    message.data.tensor.shape[0] = 2
    with pytest.raises(grpc.RpcError) as caught:
        doubler.predict(message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("fail", "code", "text"),
    [
        ("value", "INVALID_ARGUMENT", "preprocess raised ValueError: not today (processor.py line 7)"),
        ("key", "INTERNAL", "preprocess raised KeyError: 'gone' (processor.py line 9)"),
    ],
)
def test_errors_of_hooks_name_their_line(hooked: Running, fail: str, code: str, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        hooked.predict(tagged(SeldonMessage(strData="x"), fail=fail))
    assert caught.value.code().name == code and caught.value.details() == text
    wait_for(lambda: "Traceback" in hooked.log.read_text())


def test_concurrent_requests_are_batched_and_answered_right(slow: Running) -> None:
    before = len(calls(slow))
    with ThreadPoolExecutor(16) as pool:
        blocker = pool.submit(slow.predict, tensor([[2.0]]))
        wait_for(lambda: len(calls(slow)) == before + 1)
        asked = [pool.submit(slow.predict, tensor([[n / 1000]])) for n in range(12)]
        for n, future in enumerate(asked):
            assert list(future.result(20).data.tensor.values) == [pytest.approx(2 * n / 1000)]
        blocker.result(20)
    rows = calls(slow)[before:]
    assert sum(rows) == 13 and max(rows) >= 6


def test_a_late_request_is_told_in_time_and_never_reaches_the_model(slow: Running) -> None:
    before, dropped = calls(slow), total(slow, "serving_queue_dropped_total")
    with ThreadPoolExecutor(1) as pool:
        blocker = pool.submit(slow.predict, tensor([[4.0]]))
        wait_for(lambda: len(calls(slow)) == len(before) + 1)
        with pytest.raises(grpc.RpcError) as caught:
            slow.predict(tensor([[0.25]]), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not blocker.done(), "told before the model was free"
        blocker.result(20)
    slow.predict(tensor([[0.0]]))
    assert calls(slow)[len(before) :] == [1, 1]
    # The client makes the code itself: the worker must have got the call, and let it go without a run.
    wait_for(lambda: total(slow, "serving_queue_dropped_total") == dropped + 1)


def test_every_answer_under_batching_is_its_own_requests(doubler: Running) -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.normal(size=(int(rng.integers(1, 5)), 3)) for _ in range(1500)]
    window = 64
    waiting: list[Any] = []
    for n in range(len(arrays) + window):
        if n < len(arrays):
            request = tensor(arrays[n], taskId=39)
            if n % 3 == 0:
                request.meta.puid = str(n)
            waiting.append(doubler.model.Predict.future(request, timeout=60))
        if n >= window:
            answer = waiting[n - window].result()
            array = arrays[n - window]
            assert tuple(answer.data.tensor.shape) == array.shape
            assert answer.meta.puid == ("" if (n - window) % 3 else str(n - window))
            np.testing.assert_allclose(
                answer.data.tensor.values, (2 * array + 1).ravel(), rtol=1e-5, atol=1e-6
            )
    batches = float(metric(doubler, 'serving_batch_items_count{model="doubler"}'))
    assert batches < len(arrays), "requests shared calls"


def metric(running: Running, name: str) -> str:
    line = next(line for line in running.get("/metrics").splitlines() if line.startswith(name))
    return line.rsplit(" ", 1)[1]


def total(running: Running, name: str, having: str = "") -> float:
    """Sum of a metric's series; 0 if there are none."""
    lines = running.get("/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and having in line)


def test_a_lone_request_without_enough_time_never_reaches_the_model(tmp_path: Path) -> None:
    with worker(make_folder(tmp_path / "slow", SLOW, "Slow()")) as running:
        running.predict(tensor([[1.0]]))
        handled = total(running, "grpc_server_handled_total")
        with pytest.raises(grpc.RpcError) as caught:
            running.predict(tensor([[1.0]]), timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "so it was not run" in caught.value.details(), "the worker's words, not the client's"
        wait_for(lambda: total(running, "grpc_server_handled_total") == handled + 1)
        assert total(running, "grpc_server_handled_total", "DeadlineExceeded") == 1
        running.predict(tensor([[0.0]]))
        assert calls(running) == [1, 1]


def test_overload_is_refused_at_once(slow: Running) -> None:
    before = len(calls(slow))
    with ThreadPoolExecutor(2) as pool:
        blocker = pool.submit(slow.predict, tensor([[4.0]]))
        wait_for(lambda: len(calls(slow)) == before + 1)
        queued = pool.submit(slow.predict, tensor(np.zeros((64, 1))))
        wait_for(lambda: 'serving_queue_rows{model="slow"} 64.0' in slow.get("/metrics"))
        with pytest.raises(grpc.RpcError) as caught:
            slow.predict(tensor([[0.0]]))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        blocker.result(20)
        assert list(queued.result(20).data.tensor.shape) == [64, 1]


def test_health_and_metrics(doubler: Running) -> None:
    check = doubler.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=10) == b"\x08\x01"
    assert doubler.get("/health/ready") == "ready\n"
    doubler.predict(tensor([[1, 2, 3]]))
    text = doubler.get("/metrics")
    assert 'serving_batch_rows_count{model="doubler"}' in text
    assert 'grpc_method="Predict"' in text


def test_sigterm_lets_calls_end(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "slow", SLOW, "Slow()")
    with worker(folder) as running, ThreadPoolExecutor(1) as pool:
        call = pool.submit(running.predict, tensor([[1.5]]))
        wait_for(lambda: calls(running) == [1])
        running.process.send_signal(signal.SIGTERM)
        assert list(call.result(20).data.tensor.values) == [3.0]
        assert running.process.wait(20) == 0
        with pytest.raises(grpc.RpcError):
            running.predict(tensor([[0.0]]), timeout=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rm model.pth", "model.pth: no such file"),
        ("rm net.py", "refers to module 'net'"),
        ("broken processor.py", "processor.py: cannot be imported: NameError"),
        ("bad config.toml", "config.toml:1: model.batchable: expected true or false"),
        ("--device cuda:99", "--device cuda:99"),
    ],
)
def test_a_folder_that_cannot_be_served_ends_with_status_1_and_a_reason(
    tmp_path: Path, change: str, message: str
) -> None:
    folder = make_folder(tmp_path / "m", DOUBLER, "Doubler()")
    verb, subject = change.split()
    args = ["--model-dir", str(folder), "--port", "0"]
    if verb == "rm":
        (folder / subject).unlink()
    elif verb == "broken":
        (folder / subject).write_text("oops\n")
    elif verb == "bad":
        (folder / subject).write_text("model.batchable = 3\n")
    else:
        args += [verb, subject]
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=START_S, env=os.environ)
    assert done.returncode == 1, done.stderr
    assert "READY" not in done.stdout
    assert f"{message}" in done.stderr and "error: " in done.stderr


def test_wrong_usage_ends_with_status_2() -> None:
    for args in (
        ["serve"],
        ["serve", "--model-dir", "x", "--port", "99999"],
        ["serve", "--model-dir", "x", "--threads", "-1"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "services.torch_worker", *args], capture_output=True, timeout=START_S
        )
        assert done.returncode == 2
