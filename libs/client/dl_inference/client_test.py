from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import dl_inference
from dl_inference import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InferenceError,
    InvalidInput,
    NotFound,
    Options,
    Overloaded,
    RetryPolicy,
    Unavailable,
)
from dl_inference.testing import Backend, backend

Ask = Callable[..., Any]


class Sync:
    """AsyncClient, called as Client is: the same tests for both."""

    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._loop = client, loop

    def __getattr__(self, name: str) -> Ask:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._loop.run_until_complete(method(*args, **kwargs))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(params=["threads", "asyncio"])
def make(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Iterator[Ask]:
    """Makes a client of one kind."""
    made: list[Any] = []

    def client(address: str = "", *, nodes: Path | None = None, **fields: Any) -> Any:
        kind = Client if request.param == "threads" else AsyncClient
        one: Any = kind.direct(nodes, **fields) if nodes else kind(address, **fields)
        made.append(one if isinstance(one, Client) else Sync(one, loop))
        return made[-1]

    yield client
    for one in made:
        one.close()


@pytest.fixture
def server() -> Iterator[Backend]:
    with backend() as told:
        yield told


def test_tensorflow_arrays_keep_their_names_types_and_values(make: Ask, server: Backend) -> None:
    inputs = {
        "floats": [[1.0, 2.0], [3.0, 4.0]],
        "ints": np.arange(6, dtype=np.int16).reshape(2, 3),
        "halves": np.array([1.5], np.float16),
        "words": np.array([["你好", "there"]]),
        "empty": np.zeros((0, 3), np.float64),
    }
    outputs = make(server.address).predict("textcnn-69", inputs, signature="s", version=3)
    assert outputs["floats"].dtype == np.float32 and outputs["floats"].tolist() == inputs["floats"]
    assert outputs["ints"].dtype == np.int16 and outputs["ints"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert outputs["halves"].dtype == np.float16
    assert [word.decode() for word in outputs["words"][0]] == ["你好", "there"]
    assert outputs["empty"].shape == (0, 3) and outputs["empty"].dtype == np.float64
    ((path, metadata),) = server.seen
    assert path == "/tensorflow.serving.PredictionService/Predict"
    assert metadata["x-dl-task"] == "69"


def test_an_output_filter_and_a_task_of_its_own(make: Ask, server: Backend) -> None:
    outputs = make(server.address).predict("m", {"a": [1.0], "b": [2.0]}, outputs=["b"], task=7)
    assert list(outputs) == ["b"]
    assert server.seen[0][1]["x-dl-task"] == "7"


@pytest.mark.parametrize(
    ("payload", "encoding"),
    [
        (b"\x89PNG", "tensor"),
        ("text", "tensor"),
        ({"a": [1, "b", None], "c": True}, "tensor"),
        (np.array([[1.0, 2.0]]), "tensor"),
        (np.array([[1, 2]], np.int8), "tftensor"),
        ([[1.0, 2.0], [3.0, 4.0]], "ndarray"),
        (np.array([["a", "b"]]), "tensor"),
    ],
)
def test_pytorch_payloads_come_back_as_they_went(
    make: Ask, server: Backend, payload: Any, encoding: str
) -> None:
    answer = make(server.address).pytorch_predict(39, payload, encoding=encoding)
    if isinstance(payload, bytes | str | dict):
        assert answer == payload
    else:
        assert answer.tolist() == np.asarray(payload).tolist()
    if encoding == "tftensor":
        assert answer.dtype == np.int8
    assert server.seen[0][1]["x-dl-task"] == "39"


def test_v2(make: Ask, server: Backend) -> None:
    inputs = {"image": np.ones((1, 3, 4, 4), np.float32), "ids": np.array([[1, 2]], np.int64)}
    outputs = make(server.address).infer("resnet-12", inputs)
    assert outputs["image"].dtype == np.float32 and outputs["image"].shape == (1, 3, 4, 4)
    assert outputs["ids"].tolist() == [[1, 2]]


def test_health(make: Ask, server: Backend) -> None:
    client = make(server.address)
    assert client.health() is True
    server.serving = False
    assert client.health("textcnn-69") is False


def test_a_reply_says_who_answered_and_how_often_it_was_asked(make: Ask, server: Backend) -> None:
    from dl_inference import calls

    server.failures = [grpc.StatusCode.UNAVAILABLE]
    reply = make(server.address).call(calls.tensorflow("m-1", {"x": [1.0]}))
    assert (reply.instance, reply.attempts) == (server.address, 2)
    assert reply.value["x"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAUTHENTICATED, dl_inference.NotAllowed),
        (grpc.StatusCode.INTERNAL, dl_inference.ServerError),
        (grpc.StatusCode.ABORTED, InferenceError),
    ],
)
def test_statuses_are_errors_of_a_kind_and_are_not_tried_again(
    make: Ask, server: Backend, status: grpc.StatusCode, kind: type[InferenceError]
) -> None:
    server.failures = [status] * 5
    with pytest.raises(kind) as raised:
        make(server.address).predict("m-1", {"x": [1.0]})
    assert raised.value.code == status.name
    assert f"told to fail with {status.name}" in str(raised.value)
    assert raised.value.instance == server.address
    assert raised.value.attempts == len(server.seen) == 1


def test_unavailable_is_tried_again_and_then_told(make: Ask, server: Backend) -> None:
    server.failures = [grpc.StatusCode.UNAVAILABLE] * 5
    with pytest.raises(Unavailable) as raised:
        make(server.address, retry=RetryPolicy(attempts=3)).predict("m-1", {"x": [1.0]})
    assert raised.value.attempts == len(server.seen) == 3


def test_a_deadline_holds_over_all_attempts(make: Ask, server: Backend) -> None:
    server.delay_s = 3.0
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        make(server.address).predict("m-1", {"x": [1.0]}, timeout_s=0.3)
    assert time.monotonic() - start < 2.5
    server.delay_s = 0.0


def test_what_cannot_be_sent_is_refused_without_a_call(make: Ask, server: Backend) -> None:
    client = make(server.address)
    with pytest.raises(InvalidInput, match="x"):
        client.predict("m-1", {"x": [object()]})
    with pytest.raises(InvalidInput, match="version"):
        client.predict("m-1", {"x": [1.0]}, version=1, label="stable")
    with pytest.raises(InvalidInput):
        client.pytorch_predict(1, {"x": object()})
    assert server.seen == []


def test_keys_tokens_and_metadata_travel(make: Ask, server: Backend) -> None:
    tokens = iter(["one", "two"])
    client = make(
        server.address,
        api_key="secret",
        token=lambda: next(tokens),
        metadata={"X-Trace": "t"},
        compression="gzip",
    )
    client.predict("m-1", {"x": np.zeros(10_000, np.float32)})
    client.predict("m-1", {"x": [1.0]})
    first, second = (metadata for _, metadata in server.seen)
    assert first["x-api-key"] == "secret" and first["x-trace"] == "t"
    assert (first["authorization"], second["authorization"]) == ("Bearer one", "Bearer two")
    assert "secret" not in repr(Options(api_key="secret", token="secret"))


def test_direct_calls_spread_over_the_instances_and_leave_a_dead_one(make: Ask, tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.txt"
    with backend() as one, backend() as two:
        nodes.write_text(f"69=5000,{one.address},{two.address}\n")
        client = make(nodes=nodes, policy="least_request")
        for _ in range(40):
            client.predict("textcnn-69", {"x": [1.0]})
        assert min(len(one.seen), len(two.seen)) >= 5
        with pytest.raises(NotFound, match="task 70 is not in"):
            client.predict("textcnn-70", {"x": [1.0]})
        with pytest.raises(NotFound, match="says no task"):
            client.predict("textcnn", {"x": [1.0]})
        two.failures = [grpc.StatusCode.UNAVAILABLE] * 1000
        for _ in range(40):
            client.predict("textcnn-69", {"x": [1.0]})
        assert len(two.failures) > 960 - 20  # it was left alone, but for few calls


def test_cancelling_the_task_cancels_the_call(server: Backend) -> None:
    server.delay_s = 5.0

    async def cancel() -> None:
        async with AsyncClient(server.address) as client:
            task = asyncio.create_task(client.predict("m-1", {"x": [1.0]}))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    server.delay_s = 0.0


def test_threads_share_a_client(server: Backend) -> None:
    wrong: list[float] = []
    with Client(server.address) as client:

        def ask(number: int) -> None:
            for _ in range(20):
                answer = client.predict("m-1", {"x": [float(number)]})["x"]
                if answer.tolist() != [float(number)]:
                    wrong.append(number)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert wrong == [] and len(server.seen) == 160
    with pytest.raises(ValueError, match="closed"):
        client.predict("m-1", {"x": [1.0]})


def test_an_address_is_checked() -> None:
    with pytest.raises(ValueError, match="expected an address"):
        Client("http://127.0.0.1:8500")
    with pytest.raises(TypeError):
        Client("127.0.0.1:8500", timeout=3)  # the field is timeout_s


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import dl_inference, sys; print([m for m in ('grpc', 'numpy', 'tensorflow') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"
    assert set(dir(dl_inference)) == set(dl_inference.__all__)
    assert all(getattr(dl_inference, name) for name in dl_inference.__all__)
