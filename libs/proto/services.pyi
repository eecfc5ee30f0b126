# ruff: noqa: N802
"""Types of the stubs and servicers in services.py.

A stub on a `grpc.Channel` answers the response; on a `grpc.aio.Channel` it answers a call to await. A
servicer's methods may likewise be plain or `async`. So responses are `Any` here, and requests are typed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf.descriptor import FileDescriptor

from libs.proto.messages import (
    Empty,
    Feedback,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    PredictRequest,
    RepositoryIndexRequest,
    SeldonMessage,
    SeldonModelMetadataRequest,
    ServerLiveRequest,
    ServerMetadataRequest,
    ServerReadyRequest,
)

WPAI_DESCRIPTOR: FileDescriptor
WPAI_SERVICE: str
PREDICTION_SERVICE: str
MODEL_SERVICE: str
SELDON_MODEL_SERVICE: str
SELDON_SERVICE: str
INFERENCE_SERVICE: str

_Metadata = Sequence[tuple[str, str | bytes]]
_Request = TypeVar("_Request", contravariant=True)

class _Unary(Protocol[_Request]):
    """A method with one request and one response. `timeout` is in seconds."""

    def __call__(
        self,
        request: _Request,
        timeout: float | None = None,
        metadata: _Metadata | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any: ...
    def with_call(
        self,
        request: _Request,
        timeout: float | None = None,
        metadata: _Metadata | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, Any]: ...
    def future(
        self,
        request: _Request,
        timeout: float | None = None,
        metadata: _Metadata | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any: ...

class _Stream(Protocol):
    """A method with a stream of requests and a stream of responses."""

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: _Metadata | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any: ...

class GRPCInferenceServiceStub:
    def __init__(self, channel: Any) -> None: ...
    ServerLive: _Unary[ServerLiveRequest]
    ServerReady: _Unary[ServerReadyRequest]
    ModelReady: _Unary[ModelReadyRequest]
    ServerMetadata: _Unary[ServerMetadataRequest]
    ModelMetadata: _Unary[ModelMetadataRequest]
    ModelInfer: _Unary[ModelInferRequest]
    RepositoryIndex: _Unary[RepositoryIndexRequest]
    ModelStreamInfer: _Stream

class GRPCInferenceServiceServicer:
    def ServerLive(self, request: ServerLiveRequest, context: Any) -> Any: ...
    def ServerReady(self, request: ServerReadyRequest, context: Any) -> Any: ...
    def ModelReady(self, request: ModelReadyRequest, context: Any) -> Any: ...
    def ServerMetadata(self, request: ServerMetadataRequest, context: Any) -> Any: ...
    def ModelMetadata(self, request: ModelMetadataRequest, context: Any) -> Any: ...
    def ModelInfer(self, request: ModelInferRequest, context: Any) -> Any: ...
    def RepositoryIndex(self, request: RepositoryIndexRequest, context: Any) -> Any: ...
    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Any: ...

def add_GRPCInferenceServiceServicer_to_server(
    servicer: GRPCInferenceServiceServicer, server: Any
) -> None: ...

class ModelStub:
    def __init__(self, channel: Any) -> None: ...
    Predict: _Unary[SeldonMessage]
    SendFeedback: _Unary[Feedback]
    Metadata: _Unary[Empty]

class ModelServicer:
    def Predict(self, request: SeldonMessage, context: Any) -> Any: ...
    def SendFeedback(self, request: Feedback, context: Any) -> Any: ...
    def Metadata(self, request: Empty, context: Any) -> Any: ...

def add_ModelServicer_to_server(servicer: ModelServicer, server: Any) -> None: ...

class SeldonStub:
    def __init__(self, channel: Any) -> None: ...
    Predict: _Unary[SeldonMessage]
    SendFeedback: _Unary[Feedback]
    ModelMetadata: _Unary[SeldonModelMetadataRequest]

class SeldonServicer:
    def Predict(self, request: SeldonMessage, context: Any) -> Any: ...
    def SendFeedback(self, request: Feedback, context: Any) -> Any: ...
    def ModelMetadata(self, request: SeldonModelMetadataRequest, context: Any) -> Any: ...

def add_SeldonServicer_to_server(servicer: SeldonServicer, server: Any) -> None: ...

class PredictionServiceStub:
    def __init__(self, channel: Any) -> None: ...
    Predict: _Unary[PredictRequest]
    GetModelMetadata: _Unary[GetModelMetadataRequest]

class PredictionServiceServicer:
    def Predict(self, request: PredictRequest, context: Any) -> Any: ...
    def GetModelMetadata(self, request: GetModelMetadataRequest, context: Any) -> Any: ...

def add_PredictionServiceServicer_to_server(servicer: PredictionServiceServicer, server: Any) -> None: ...

class ModelServiceStub:
    def __init__(self, channel: Any) -> None: ...
    GetModelStatus: _Unary[GetModelStatusRequest]

class ModelServiceServicer:
    def GetModelStatus(self, request: GetModelStatusRequest, context: Any) -> Any: ...

def add_ModelServiceServicer_to_server(servicer: ModelServiceServicer, server: Any) -> None: ...

class WpaiDLPredictOnlineServiceStub:
    def __init__(self, channel: Any) -> None: ...
    Predict: _Unary[PredictRequest]
    PytorchPredict: _Unary[SeldonMessage]
    CaffePredict: _Unary[SeldonMessage]
    TisPredict: _Unary[ModelInferRequest]

class WpaiDLPredictOnlineServiceServicer:
    def Predict(self, request: PredictRequest, context: Any) -> Any: ...
    def PytorchPredict(self, request: SeldonMessage, context: Any) -> Any: ...
    def CaffePredict(self, request: SeldonMessage, context: Any) -> Any: ...
    def TisPredict(self, request: ModelInferRequest, context: Any) -> Any: ...

def add_WpaiDLPredictOnlineServiceServicer_to_server(
    servicer: WpaiDLPredictOnlineServiceServicer, server: Any
) -> None: ...
