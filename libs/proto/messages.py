"""Every message and enum of this project's protocols, under one roof.

The classes come from generated modules (`generate.py`) and register in a private pool (`pool.py`), so they
live beside the official packages' classes in one process; the bytes are the same. The well-known types
exported here are the ones that fit into these messages.
"""

from __future__ import annotations

from libs.proto.inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStreamInferResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from libs.proto.pool import POOL, Any, Empty, Int64Value, ListValue, Struct, Value
from libs.proto.seldon_pb2 import (
    DefaultData,
    Feedback,
    Meta,
    Metric,
    SeldonMessage,
    SeldonMessageMetadata,
    SeldonModelMetadata,
    SeldonModelMetadataRequest,
    Status,
    Tensor,
)
from libs.proto.tensorflow_error_pb2 import (
    Code as TensorFlowCode,
)
from libs.proto.tensorflow_pb2 import (
    DataType,
    ResourceHandleProto,
    SignatureDef,
    TensorInfo,
    TensorProto,
    TensorShapeProto,
    VariantTensorDataProto,
)
from libs.proto.tensorflow_serving_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    PredictStreamedOptions,
    SignatureDefMap,
    StatusProto,
)

__all__ = [
    "Any",
    "DataType",
    "DefaultData",
    "Empty",
    "Feedback",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "InferParameter",
    "InferTensorContents",
    "Int64Value",
    "ListValue",
    "Meta",
    "Metric",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelMetadataRequest",
    "ModelMetadataResponse",
    "ModelReadyRequest",
    "ModelReadyResponse",
    "ModelSpec",
    "ModelStreamInferResponse",
    "ModelVersionStatus",
    "POOL",
    "PredictRequest",
    "PredictResponse",
    "PredictStreamedOptions",
    "ResourceHandleProto",
    "SeldonMessage",
    "SeldonMessageMetadata",
    "SeldonModelMetadata",
    "SeldonModelMetadataRequest",
    "ServerLiveRequest",
    "ServerLiveResponse",
    "ServerMetadataRequest",
    "ServerMetadataResponse",
    "ServerReadyRequest",
    "ServerReadyResponse",
    "SignatureDef",
    "SignatureDefMap",
    "Status",
    "StatusProto",
    "Struct",
    "Tensor",
    "TensorFlowCode",
    "TensorInfo",
    "TensorProto",
    "TensorShapeProto",
    "Value",
    "VariantTensorDataProto",
]
