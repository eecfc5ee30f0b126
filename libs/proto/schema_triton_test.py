"""Our messages beside tritonclient's own, in one process."""

from __future__ import annotations

from tritonclient.grpc import service_pb2

from libs.proto import messages
from libs.proto.testing import assert_part_of, file_schema

# Triton's extensions, which are not part of the protocol's core.
EXTENSIONS = {
    "ModelConfig",
    "ModelStatistics",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
}


def test_our_messages_are_part_of_the_official_ones() -> None:
    ours = file_schema(messages.POOL.FindFileByName("libs/proto/inference.proto"))
    assert ours
    assert_part_of(ours, file_schema(service_pb2.DESCRIPTOR), EXTENSIONS)


def test_both_kinds_live_in_one_process_and_read_each_other() -> None:
    ours = messages.ModelInferRequest(model_name="tis-5", raw_input_contents=[b"1234"])
    ours.parameters["priority"].int64_param = 2
    ours.inputs.add(name="x", datatype="FP32", shape=[1])
    theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert theirs.DESCRIPTOR is not ours.DESCRIPTOR
    assert (theirs.model_name, theirs.parameters["priority"].int64_param) == ("tis-5", 2)
    assert messages.ModelInferRequest.FromString(theirs.SerializeToString()) == ours
