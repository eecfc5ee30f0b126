"""TensorFlow Serving's RPCs over loaded servables: decode, check, run, encode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libs.proto.wire import ProtoError, len_field
from libs.serving.call import Call, Handler
from libs.serving.errors import Internal, InvalidArgument
from services.tf_serving.execution import tensors
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.model.signature import (
    Signature,
    check_input_names,
    check_tensor,
    choose_outputs,
    find,
)
from services.tf_serving.serving.servables import Servables

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

SIGNATURE_DEF = "signature_def"
_SIGNATURE_DEF_MAP_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class Service:
    """The handlers. `servables` may be replaced at any time; a call keeps what it found.

    Args:
        as_content: answer numbers in tensor_content instead of typed values.
    """

    def __init__(self, servables: Servables, scheduler: Scheduler, *, as_content: bool = False) -> None:
        # These modules import TensorFlow, so they are imported when a service is made and not before.
        from google.protobuf.message import DecodeError
        from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

        self.servables = servables
        self._scheduler = scheduler
        self._as_content = as_content
        self._decode_error: type[Exception] = DecodeError
        self._predict_request: Any = predict_pb2.PredictRequest
        self._metadata: Any = get_model_metadata_pb2
        self._status: Any = get_model_status_pb2
        self._spec_bytes: dict[tuple[str, int, str], bytes] = {}

    def handlers(self) -> Mapping[str, Handler]:
        """By method path."""
        return {
            f"/{PREDICTION_SERVICE}/Predict": self.predict,
            f"/{PREDICTION_SERVICE}/GetModelMetadata": self.get_model_metadata,
            f"/{MODEL_SERVICE}/GetModelStatus": self.get_model_status,
        }

    async def predict(self, call: Call, body: bytes) -> bytes:
        """PredictRequest to PredictResponse.

        Raises:
            InvalidArgument: no message, no model name, or inputs or outputs that the signature does not have.
            NotFound: no such model or version. FailedPrecondition: no such signature.
            ServingError: from the queue or the model; see Scheduler.run.
        """
        request = self._parse(self._predict_request, body)
        spec = request.model_spec
        servable = self.servables.find(spec)
        engine = servable.engine
        signature = find(engine.signatures, spec.signature_name)
        given = request.inputs
        check_input_names(signature, given)
        outputs = choose_outputs(signature, request.output_filter)
        arrays = []
        for name in signature.inputs:
            if name in given:
                data_type, shape, array = tensors.array_of(name, given[name])
                check_tensor(signature, name, data_type, shape)
            else:
                array = engine.default_input(signature, name)
            arrays.append(array)
        results = await self._scheduler.run(
            engine.runner(signature.name, outputs),
            arrays,
            batch_key=(
                (servable.name, servable.version, signature.name, outputs) if signature.batchable else None
            ),
            deadline=call.deadline,
            cancelled=call.cancelled,
        )
        return self._response(signature, outputs, results, servable.name, servable.version)

    async def get_model_metadata(self, call: Call, body: bytes) -> bytes:
        """GetModelMetadataRequest to GetModelMetadataResponse; the one field there is, is signature_def.

        Raises:
            InvalidArgument: no model name, no metadata field, or another one. NotFound: no such model or
                version.
        """
        request = self._parse(self._metadata.GetModelMetadataRequest, body)
        if not request.metadata_field:
            raise InvalidArgument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise InvalidArgument(f"Metadata field {field} is not supported")
        servable = self.servables.find(request.model_spec)
        response = self._metadata.GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        metadata = response.metadata[SIGNATURE_DEF]
        metadata.type_url = _SIGNATURE_DEF_MAP_URL
        metadata.value = servable.engine.signature_def_map
        return bytes(response.SerializeToString())

    async def get_model_status(self, call: Call, body: bytes) -> bytes:
        """GetModelStatusRequest to GetModelStatusResponse.

        Raises:
            InvalidArgument: no model_spec. NotFound: no such model or version.
        """
        request = self._parse(self._status.GetModelStatusRequest, body)
        response = self._status.GetModelStatusResponse()
        for version, state in self.servables.states(request.model_spec):
            status = response.model_version_status.add(version=version, state=int(state))
            status.status.SetInParent()  # an empty StatusProto is OK
        return bytes(response.SerializeToString())

    def _parse(self, message: Any, body: bytes) -> Any:
        try:
            request = message.FromString(body)
        except self._decode_error as error:
            name = message.DESCRIPTOR.full_name
            raise InvalidArgument(f"the request is not a {name}: {error}") from error
        if not request.HasField("model_spec"):
            raise InvalidArgument("Missing ModelSpec")
        return request

    def _response(
        self, signature: Signature, outputs: tuple[str, ...], results: list[Any], name: str, version: int
    ) -> bytes:
        """A serialized PredictResponse: outputs 1 (a map), model_spec 2."""
        parts = []
        try:
            for output, result in zip(outputs, results, strict=True):
                tensor = tensors.tensor_bytes(
                    result, signature.outputs[output].data_type, as_content=self._as_content
                )
                parts.append(len_field(1, len_field(1, output.encode()) + len_field(2, tensor)))
        except ProtoError as error:
            raise Internal(f'output "{output}" cannot be encoded: {error}') from error
        parts.append(self._spec(name, version, signature.name))
        return b"".join(parts)

    def _spec(self, name: str, version: int, signature_name: str) -> bytes:
        """The response's model_spec field, the same for all requests that found the same signature."""
        key = (name, version, signature_name)
        known = self._spec_bytes.get(key)
        if known is None:
            from tensorflow_serving.apis import model_pb2

            spec = model_pb2.ModelSpec(name=name, signature_name=signature_name)
            spec.version.value = version
            known = self._spec_bytes[key] = len_field(2, spec.SerializeToString())
        return known
