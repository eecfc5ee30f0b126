"""Reflection and Watch end to end, by plain grpcio streams."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from libs.serving.protowire import block, fields
from libs.serving.reflection import SERVICES
from services.torch_worker.testing import DOUBLER, make_folder
from services.torch_worker.testing_process import Running, worker

OFFERED = {
    "grpc.health.v1.Health",
    "inference.GRPCInferenceService",
    "seldon.protos.Model",
    "seldon.protos.Seldon",
    *SERVICES,
}
_BY_SYMBOL, _LIST = 4, 7


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with worker(make_folder(tmp_path_factory.mktemp("m") / "doubler", DOUBLER, "Doubler()")) as process:
        yield process


class Questions:
    """A stream of requests, each sent when the answer to the one before is there."""

    def __init__(self, channel: grpc.Channel, service: str) -> None:
        self._requests: queue.Queue[bytes | None] = queue.Queue()
        method = channel.stream_stream(f"/{service}/ServerReflectionInfo")
        self._call = method(iter(self._requests.get, None), timeout=20)

    def ask(self, request: bytes) -> dict[int, bytes]:
        self._requests.put(request)
        return dict(fields(next(self._call)))

    def end(self) -> grpc.StatusCode:
        self._requests.put(None)
        assert list(self._call) == []
        return self._call.code()


@pytest.mark.parametrize("service", SERVICES)
def test_a_client_learns_every_method(running: Running, service: str) -> None:
    questions = Questions(running.channel, service)
    names = {dict(fields(item))[1].decode() for _, item in fields(questions.ask(block(_LIST, b""))[6])}
    assert names == OFFERED
    for name in sorted(names):
        answer = questions.ask(block(_BY_SYMBOL, name.encode()))
        pool = DescriptorPool()
        for _, file in reversed(list(fields(answer[4]))):
            pool.Add(FileDescriptorProto.FromString(file))
        assert pool.FindServiceByName(name).methods
    assert 7 in questions.ask(block(_BY_SYMBOL, b"no.Such"))
    assert questions.end() is grpc.StatusCode.OK


def test_watch_sees_the_drain(running: Running) -> None:
    watch = running.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
    assert next(watch) == b"\x08\x01"
    idle = Questions(running.channel, SERVICES[0])
    idle.ask(block(_LIST, b""))
    running.process.terminate()
    assert next(watch) == b"\x08\x02"
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert running.process.wait(20) == 0, "open streams do not hold the drain"
