"""gRPC stubs and servicers of this project's protocols, for grpcio.

`XStub(channel)` calls a service; subclass `XServicer` and register it with `add_XServicer_to_server(servicer,
server)` to offer one. Both work with `grpc` and with `grpc.aio`. Types are in services.pyi.
"""

from __future__ import annotations

from libs.proto.inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    GRPCInferenceServiceStub,
    add_GRPCInferenceServiceServicer_to_server,
)
from libs.proto.seldon_pb2_grpc import (
    ModelServicer,
    ModelStub,
    SeldonServicer,
    SeldonStub,
    add_ModelServicer_to_server,
    add_SeldonServicer_to_server,
)
from libs.proto.tensorflow_serving_pb2_grpc import (
    ModelServiceServicer,
    ModelServiceStub,
    PredictionServiceServicer,
    PredictionServiceStub,
    add_ModelServiceServicer_to_server,
    add_PredictionServiceServicer_to_server,
)
from libs.proto.wpai_pb2 import DESCRIPTOR as WPAI_DESCRIPTOR
from libs.proto.wpai_pb2_grpc import (
    WpaiDLPredictOnlineServiceServicer,
    WpaiDLPredictOnlineServiceStub,
    add_WpaiDLPredictOnlineServiceServicer_to_server,
)

# Full names, as they stand in gRPC paths ("/<service>/<method>") and in reflection.
WPAI_SERVICE = "com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineService"
PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
SELDON_MODEL_SERVICE = "seldon.protos.Model"
SELDON_SERVICE = "seldon.protos.Seldon"
INFERENCE_SERVICE = "inference.GRPCInferenceService"

__all__ = [
    "INFERENCE_SERVICE",
    "MODEL_SERVICE",
    "PREDICTION_SERVICE",
    "SELDON_MODEL_SERVICE",
    "SELDON_SERVICE",
    "WPAI_DESCRIPTOR",
    "WPAI_SERVICE",
    "GRPCInferenceServiceServicer",
    "GRPCInferenceServiceStub",
    "ModelServiceServicer",
    "ModelServiceStub",
    "ModelServicer",
    "ModelStub",
    "PredictionServiceServicer",
    "PredictionServiceStub",
    "SeldonServicer",
    "SeldonStub",
    "WpaiDLPredictOnlineServiceServicer",
    "WpaiDLPredictOnlineServiceStub",
    "add_GRPCInferenceServiceServicer_to_server",
    "add_ModelServiceServicer_to_server",
    "add_ModelServicer_to_server",
    "add_PredictionServiceServicer_to_server",
    "add_SeldonServicer_to_server",
    "add_WpaiDLPredictOnlineServiceServicer_to_server",
]
