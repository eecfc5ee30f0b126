"""For tests: models that answer one number, asked through TensorFlow Serving's own stubs."""

from __future__ import annotations

import grpc
import numpy as np

from services.tf_serving.testing import predict_request


class Client:
    """The services of a server, in the words of tests of versions."""

    def __init__(self, channel: grpc.Channel) -> None:
        from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
        from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

        self._predict = PredictionServiceStub(channel).Predict
        self._models = ModelServiceStub(channel)
        self._health = channel.unary_unary("/grpc.health.v1.Health/Check")

    def answer(self, name: str, *, version: int | None = None, label: str = "") -> tuple[int, float]:
        """Which version answered, and what."""
        request = predict_request(name, {"x": np.zeros(1, "f4")})
        if version is not None:
            request.model_spec.version.value = version
        if label:
            request.model_spec.version_label = label
        response = self._predict(request, timeout=20)
        return response.model_spec.version.value, response.outputs["y"].float_val[0]

    def status(self, name: str) -> dict[int, tuple[int, str]]:
        """State and error by version."""
        from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest

        request = GetModelStatusRequest()
        request.model_spec.name = name
        response = self._models.GetModelStatus(request, timeout=20)
        return {v.version: (v.state, v.status.error_message) for v in response.model_version_status}

    def states(self, name: str) -> dict[int, int]:
        """State by version."""
        return {version: state for version, (state, _) in self.status(name).items()}

    def reload(self, text: str) -> None:
        """Serve by a ModelServerConfig in the text format."""
        from google.protobuf import text_format
        from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest

        request = ReloadConfigRequest()
        text_format.Parse(text, request.config)
        assert self._models.HandleReloadConfigRequest(request, timeout=60).status.error_code == 0

    def serving(self, service: str) -> bool:
        """What grpc.health.v1 says of a service."""
        name = service.encode()
        answer: bytes = self._health(b"\x0a" + bytes([len(name)]) + name, timeout=20)
        return answer == b"\x08\x01"
