from __future__ import annotations

from concurrent import futures
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, struct_pb2

from libs.proto import generate, messages, pool, services
from libs.proto.messages import POOL, SeldonMessage, Value


def test_well_known_types_behave() -> None:
    message = SeldonMessage()
    message.meta.tags["taskId"].number_value = 39
    message.meta.tags["list"].list_value.extend([1, "a", None, True])
    message.jsonData.struct_value.update({"a": {"b": [1.5]}})
    again = SeldonMessage.FromString(message.SerializeToString())
    assert again == message
    assert again.meta.tags["taskId"].number_value == 39
    inner: Any = again.jsonData.struct_value["a"]
    assert inner["b"][0] == 1.5
    assert json_format.MessageToDict(again) == {
        "meta": {"tags": {"taskId": 39.0, "list": [1.0, "a", None, True]}},
        "jsonData": {"a": {"b": [1.5]}},
    }
    message.jsonData.CopyFrom(Value(string_value="x"))
    assert message.jsonData.string_value == "x"


def test_any_packs_and_unpacks() -> None:
    message = SeldonMessage()
    message.customData.Pack(messages.ServerLiveResponse(live=True))
    inner = messages.ServerLiveResponse()
    assert message.customData.Unpack(inner)
    assert inner.live


def test_nothing_is_registered_in_the_default_pool() -> None:
    for name in ("seldon.protos.SeldonMessage", "tensorflow.TensorProto", services.WPAI_SERVICE):
        with pytest.raises(KeyError):
            descriptor_pool.Default().FindFileByName("libs/proto/seldon.proto")
        assert POOL.FindFileContainingSymbol(name).name.startswith("libs/proto/")
    assert messages.Value is not struct_pb2.Value


def test_every_message_of_the_files_is_exported() -> None:
    for name in ("inference", "seldon", "tensorflow", "tensorflow_serving"):
        file = POOL.FindFileByName(f"libs/proto/{name}.proto")
        for message, descriptor in file.message_types_by_name.items():
            assert getattr(messages, message).DESCRIPTOR is descriptor
            assert message in messages.__all__


class Echo(services.WpaiDLPredictOnlineServiceServicer):
    def PytorchPredict(self, request: SeldonMessage, context: Any) -> SeldonMessage:  # noqa: N802
        return request


class Metadata(services.ModelServicer):
    def Metadata(self, request: messages.Empty, context: Any) -> messages.SeldonModelMetadata:  # noqa: N802
        return messages.SeldonModelMetadata(name="digits")


def test_stubs_and_servicers_talk() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    services.add_WpaiDLPredictOnlineServiceServicer_to_server(Echo(), server)
    services.add_ModelServicer_to_server(Metadata(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = SeldonMessage(strData="x")
            stub = services.WpaiDLPredictOnlineServiceStub(channel)
            assert stub.PytorchPredict(request, timeout=10) == request
            answer = services.ModelStub(channel).Metadata(messages.Empty(), timeout=10)
            assert answer.name == "digits"
    finally:
        server.stop(None).wait(10)


GENERATED = """
from google.protobuf import descriptor_pool as _descriptor_pool
DESCRIPTOR = _descriptor_pool.Default().AddSerializedFile(b'')
"""


def test_generated_modules_are_made_private() -> None:
    assert generate.privatise_messages(GENERATED) == (
        "\nfrom libs.proto import pool as _private_pool\n"
        "DESCRIPTOR = _private_pool.POOL.AddSerializedFile(b'')\n"
    )
    source = "from google.protobuf import empty_pb2 as google_dot_protobuf_dot_empty__pb2\n"
    assert generate.privatise_services(source) == (
        "from libs.proto import pool as google_dot_protobuf_dot_empty__pb2\n"
    )
    assert generate.complete_types("_Union[A, _Mapping]") == "_Union[A, _Mapping[str, object]]"
    assert generate.complete_types("_Mapping[str, int]") == "_Mapping[str, int]"
    with pytest.raises(generate.GenerationError, match="another form"):
        generate.privatise_messages("DESCRIPTOR = something_new()")


def test_pool_holds_the_classes_that_fit() -> None:
    for name in ("Any", "Empty", "Int64Value", "ListValue", "Struct", "Value"):
        assert getattr(pool, name).DESCRIPTOR is POOL.FindMessageTypeByName(f"google.protobuf.{name}")
