"""TensorFlow Serving's ModelService: what is loaded, and changing it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from libs.serving.call import Call, Handler
from libs.serving.errors import InvalidArgument, PermissionDenied
from libs.serving.status import Code
from libs.serving.versions import State, VersionState
from services.tf_serving.serving.servables import Servables

MODEL_SERVICE = "tensorflow.serving.ModelService"

Reload = Callable[[Any], Awaitable[None]]
"""Makes the models of a ModelServerConfig message those that are served. Raises ServingError."""


class ModelService:
    """The handlers.

    Args:
        reload: None where callers may not change the models.
    """

    def __init__(self, servables: Servables, reload: Reload | None = None) -> None:
        # These modules import TensorFlow, so they are imported when a service is made and not before.
        from google.protobuf.message import DecodeError
        from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2

        self._servables = servables
        self._reload = reload
        self._decode_error: type[Exception] = DecodeError
        self._status: Any = get_model_status_pb2
        self._management: Any = model_management_pb2

    def handlers(self) -> Mapping[str, Handler]:
        """By method path."""
        return {
            f"/{MODEL_SERVICE}/GetModelStatus": self.get_model_status,
            f"/{MODEL_SERVICE}/HandleReloadConfigRequest": self.handle_reload_config_request,
        }

    async def get_model_status(self, call: Call, body: bytes) -> bytes:
        """GetModelStatusRequest to GetModelStatusResponse.

        Raises:
            InvalidArgument: no model_spec, or an unknown label. NotFound: no such model or version.
        """
        request = self._parse(self._status.GetModelStatusRequest, body)
        if not request.HasField("model_spec"):
            raise InvalidArgument("Missing ModelSpec")
        response = self._status.GetModelStatusResponse()
        for state in self._servables.states(request.model_spec):
            status = response.model_version_status.add(version=state.number, state=state.state.value)
            status.status.error_code, status.status.error_message = _status(state)
        return bytes(response.SerializeToString())

    async def handle_reload_config_request(self, call: Call, body: bytes) -> bytes:
        """ReloadConfigRequest to ReloadConfigResponse, once the models that it adds can answer.

        Raises:
            PermissionDenied: callers may not. InvalidArgument, FailedPrecondition: the configuration cannot be; what
                was served goes on being served.
            ServingError: a model could not be loaded; the others are served by the new configuration.
        """
        request = self._parse(self._management.ReloadConfigRequest, body)
        if self._reload is None:
            raise PermissionDenied(
                "the models of this server cannot be changed by its callers: it runs with --enable-reload-config=false"
            )
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidArgument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        await self._reload(request.config)
        response = self._management.ReloadConfigResponse()
        response.status.SetInParent()  # an empty StatusProto is OK
        return bytes(response.SerializeToString())

    def _parse(self, message: Any, body: bytes) -> Any:
        try:
            return message.FromString(body)
        except self._decode_error as error:
            raise InvalidArgument(f"the request is not a {message.DESCRIPTOR.full_name}: {error}") from error


def _status(state: VersionState) -> tuple[int, str]:
    """The StatusProto of a version. One that answers is well, even if its newer files could not be loaded."""
    if state.error and state.state is not State.AVAILABLE:
        return int(Code.UNKNOWN), state.error
    return int(Code.OK), ""
