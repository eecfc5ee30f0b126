from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from libs.proto import services
from libs.proto.descriptors import ServiceDescriptors


@pytest.mark.parametrize(
    "service",
    [
        services.INFERENCE_SERVICE,
        services.SELDON_MODEL_SERVICE,
        services.SELDON_SERVICE,
        services.PREDICTION_SERVICE,
        services.MODEL_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ],
)
def test_a_services_files_are_complete(service: str) -> None:
    files = ServiceDescriptors().file_containing(service)
    assert files is not None
    pool = DescriptorPool()
    for data in reversed(files):  # what a file imports comes behind it
        pool.Add(FileDescriptorProto.FromString(data))
    for method in pool.FindServiceByName(service).methods:
        assert method.input_type.full_name and method.output_type.full_name


def test_files_by_name_and_symbols_of_all_kinds() -> None:
    known = ServiceDescriptors()
    files = known.file_containing("seldon.protos.SeldonMessage")
    assert files is not None and files == known.file("libs/proto/seldon.proto")
    assert files == known.file_containing("seldon.protos.Model.Predict")
    assert known.file("google/protobuf/struct.proto") is not None
    assert known.file("nope.proto") is None and known.file_containing("nope") is None
