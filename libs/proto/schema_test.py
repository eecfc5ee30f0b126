from __future__ import annotations

from libs.proto import services
from libs.proto.messages import POOL
from libs.proto.testing import file_schema
from libs.proto.testing_seldon_schema import SELDON_SCHEMA


def test_seldon_messages_are_seldon_cores() -> None:
    # seldon-core's own classes are compared with the same table in schema_seldon_test.py.
    assert file_schema(POOL.FindFileByName("libs/proto/seldon.proto")) == SELDON_SCHEMA


def test_the_entry_service_is_the_wire_contract() -> None:
    schema = file_schema(services.WPAI_DESCRIPTOR)
    assert schema == {
        "com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineService": {
            "Predict": ("tensorflow.serving.PredictRequest", "tensorflow.serving.PredictResponse"),
            "PytorchPredict": ("seldon.protos.SeldonMessage", "seldon.protos.SeldonMessage"),
            "CaffePredict": ("seldon.protos.SeldonMessage", "seldon.protos.SeldonMessage"),
            "TisPredict": ("inference.ModelInferRequest", "inference.ModelInferResponse"),
        }
    }
    options = services.WPAI_DESCRIPTOR.GetOptions()
    assert options.java_package == "com.bj58.ailab.dlpredictonline.grpc"
    assert options.java_multiple_files


def test_service_names_are_those_of_the_descriptors() -> None:
    for name in (
        services.WPAI_SERVICE,
        services.PREDICTION_SERVICE,
        services.MODEL_SERVICE,
        services.SELDON_MODEL_SERVICE,
        services.SELDON_SERVICE,
        services.INFERENCE_SERVICE,
    ):
        assert POOL.FindServiceByName(name).full_name == name
