"""Our messages beside TensorFlow's and TensorFlow Serving's own, in one process."""

from __future__ import annotations

from google.protobuf import any_pb2
from tensorflow.core.framework import resource_handle_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
)

from libs.proto import messages
from libs.proto.testing import assert_part_of, file_schema

OFFICIAL = [
    types_pb2,
    tensor_shape_pb2,
    tensor_pb2,
    resource_handle_pb2,
    meta_graph_pb2,
    model_pb2,
    predict_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    prediction_service_pb2,
    model_service_pb2,
]


def official_schema() -> dict[str, object]:
    found: dict[str, object] = {}
    for module in OFFICIAL:
        found |= file_schema(module.DESCRIPTOR)
    # The files of StatusProto and of its codes have no modules of their own.
    status = get_model_status_pb2.ModelVersionStatus.DESCRIPTOR.fields_by_name["status"].message_type
    code = status.fields_by_name["error_code"].enum_type
    return found | file_schema(status.file) | file_schema(code.file)


def test_our_messages_are_part_of_the_official_ones() -> None:
    official = official_schema()
    left_out = {"composite_tensor", "Classify", "Regress", "MultiInference", "HandleReloadConfigRequest"}
    for name in ("tensorflow", "tensorflow_error", "tensorflow_serving"):
        ours = file_schema(messages.POOL.FindFileByName(f"libs/proto/{name}.proto"))
        assert ours
        assert_part_of(ours, official, left_out)


def test_both_kinds_live_in_one_process_and_read_each_other() -> None:
    ours = messages.PredictRequest()
    ours.model_spec.name = "textcnn-69"
    ours.model_spec.version.value = 3
    ours.inputs["x"].dtype = messages.DataType.DT_FLOAT
    ours.inputs["x"].float_val.append(1.5)
    theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert theirs.DESCRIPTOR is not ours.DESCRIPTOR
    assert (theirs.model_spec.name, theirs.model_spec.version.value) == ("textcnn-69", 3)
    assert list(theirs.inputs["x"].float_val) == [1.5]
    assert messages.PredictRequest.FromString(theirs.SerializeToString()) == ours


def test_signatures_in_an_any_are_read() -> None:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    signature = signatures.signature_def["serving_default"]
    signature.inputs["x"].name = "x:0"
    signature.inputs["x"].dtype = 1
    signature.inputs["x"].tensor_shape.dim.add().size = -1
    answer = get_model_metadata_pb2.GetModelMetadataResponse()
    packed = any_pb2.Any()
    packed.Pack(signatures)
    answer.metadata["signature_def"].CopyFrom(packed)
    ours = messages.GetModelMetadataResponse.FromString(answer.SerializeToString())
    read = messages.SignatureDefMap()
    assert ours.metadata["signature_def"].Unpack(read)
    assert read.signature_def["serving_default"].inputs["x"].tensor_shape.dim[0].size == -1
