"""TensorFlow Serving's RPCs over loaded servables: decode, check, run, encode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from libs.proto.wire import LEN, Buffer, Field, ProtoError, fields, len_field, merge
from libs.serving.call import Call, Handler
from libs.serving.errors import Internal, InvalidArgument
from services.tf_serving.execution import tensors
from services.tf_serving.execution.example_input import examples
from services.tf_serving.execution.inference import Inference, InferenceObserver, Plan, Task
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.model.methods import Classified
from services.tf_serving.model.signature import DEFAULT_SIGNATURE
from services.tf_serving.protocols.results import classification_result, regression_result
from services.tf_serving.serving.servables import Servable, Servables

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"

SIGNATURE_DEF = "signature_def"
_FIRST = 1 << 3 | LEN
"""model_spec of ClassificationRequest and RegressionRequest, tasks of MultiInferenceRequest."""
_INPUT = 2 << 3 | LEN
_SIGNATURE_DEF_MAP_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class Service:
    """The handlers. What is loaded may change at any time; a call keeps what it found.

    Args:
        as_content: answer numbers in tensor_content instead of typed values.
        check_method_name: refuse signatures that were made for another method; see `methods`.
    """

    def __init__(
        self,
        servables: Servables,
        scheduler: Scheduler,
        *,
        as_content: bool = False,
        check_method_name: bool = False,
        observer: InferenceObserver | None = None,
    ) -> None:
        # These modules import TensorFlow, so they are imported when a service is made and not before.
        from google.protobuf.message import DecodeError
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            inference_pb2,
            model_pb2,
            predict_pb2,
        )

        self.servables = servables
        self.inference = Inference(scheduler, check_method_name=check_method_name, observer=observer)
        self._as_content = as_content
        self._decode_error: type[Exception] = DecodeError
        self._predict_request: Any = predict_pb2.PredictRequest
        self._inference_task: Any = inference_pb2.InferenceTask
        self._model_spec: Any = model_pb2.ModelSpec
        self._metadata: Any = get_model_metadata_pb2
        self._spec_bytes: dict[tuple[int, str, int, str], bytes] = {}

    def handlers(self) -> Mapping[str, Handler]:
        """By method path."""
        return {
            f"/{PREDICTION_SERVICE}/Predict": self.predict,
            f"/{PREDICTION_SERVICE}/Classify": self.classify,
            f"/{PREDICTION_SERVICE}/Regress": self.regress,
            f"/{PREDICTION_SERVICE}/MultiInference": self.multi_inference,
            f"/{PREDICTION_SERVICE}/GetModelMetadata": self.get_model_metadata,
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
        call.subject = spec.name
        servable = self.servables.find(spec)
        given = request.inputs
        arrays = {name: tensors.array_of(name, given[name]) for name in given}
        plan = self.inference.plan(servable, spec.signature_name, arrays, request.output_filter)
        results = await self.inference.run(plan, call)
        return self._predict_response(plan, results, servable)

    async def classify(self, call: Call, body: bytes) -> bytes:
        """ClassificationRequest to ClassificationResponse.

        Raises:
            InvalidArgument: no message, no model name, no example, no such signature, or one that cannot
                classify. NotFound: no such model or version.
            ServingError: from the queue or the model; see Scheduler.run.
        """
        spec, servable, given = self._examples_request("ClassificationRequest", call, body)
        answer = await self.inference.classify(servable, spec.signature_name, given, call)
        return len_field(1, classification_result(answer)) + self._spec(2, spec, servable)

    async def regress(self, call: Call, body: bytes) -> bytes:
        """RegressionRequest to RegressionResponse.

        Raises:
            as classify.
        """
        spec, servable, given = self._examples_request("RegressionRequest", call, body)
        answer = await self.inference.regress(servable, spec.signature_name, given, call)
        return len_field(1, regression_result(answer)) + self._spec(2, spec, servable)

    async def multi_inference(self, call: Call, body: bytes) -> bytes:
        """MultiInferenceRequest to MultiInferenceResponse: classifications and regressions of the same
        examples by one model, in one run. As in TensorFlow Serving, the first task says which version.

        Raises:
            InvalidArgument: no message, no example, or tasks that cannot be done together.
            NotFound: no such model or version. Unimplemented: a method that is neither.
            ServingError: from the queue or the model; see Scheduler.run.
        """
        name = "MultiInferenceRequest"
        spans = self._spans(name, body)
        tasks = [self._message(self._inference_task, name, body[a:b]) for tag, a, b in spans if tag == _FIRST]
        spec = tasks[0].model_spec if tasks else self._model_spec()
        servable = self.servables.find(spec)
        answers = await self.inference.multi(
            servable,
            [Task(task.model_spec.name, task.model_spec.signature_name, task.method_name) for task in tasks],
            self._examples(name, body, spans),
            call,
        )
        results = []
        for task, answer in zip(tasks, answers, strict=True):
            if isinstance(answer, Classified):
                result = len_field(2, classification_result(answer))
            else:
                result = len_field(3, regression_result(answer))
            results.append(len_field(1, self._spec(1, task.model_spec, servable) + result))
        return b"".join(results)

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

    def _parse(self, message: Any, body: bytes) -> Any:
        try:
            request = message.FromString(body)
        except self._decode_error as error:
            name = message.DESCRIPTOR.full_name
            raise InvalidArgument(f"the request is not a {name}: {error}") from error
        if not request.HasField("model_spec"):
            raise InvalidArgument("Missing ModelSpec")
        return request

    def _examples_request(self, name: str, call: Call, body: bytes) -> tuple[Any, Servable, NDArray[Any]]:
        """The ModelSpec, the servable and the examples of a request whose model_spec is 1 and input 2."""
        spans = self._spans(name, body)
        specs = [(a, b) for tag, a, b in spans if tag == _FIRST]
        if not specs:
            raise InvalidArgument("Missing ModelSpec")
        buf, start, end = merge(body, specs)
        spec = self._message(self._model_spec, name, buf[start:end])
        call.subject = spec.name
        return spec, self.servables.find(spec), self._examples(name, body, spans)

    def _spans(self, name: str, body: bytes) -> list[Field]:
        try:
            return fields(body, 0, len(body))
        except ProtoError as error:
            raise InvalidArgument(f"the request is not a tensorflow.serving.{name}: {error}") from error

    def _examples(self, name: str, body: bytes, spans: list[Field]) -> NDArray[Any]:
        try:
            return examples(body, [(a, b) for tag, a, b in spans if tag == _INPUT])
        except ProtoError as error:
            raise InvalidArgument(f"the request is not a tensorflow.serving.{name}: {error}") from error

    def _message(self, message: Any, name: str, data: Buffer) -> Any:
        try:
            return message.FromString(bytes(data))
        except self._decode_error as error:
            raise InvalidArgument(f"the request is not a tensorflow.serving.{name}: {error}") from error

    def _predict_response(self, plan: Plan, results: list[NDArray[Any]], servable: Servable) -> bytes:
        """A serialized PredictResponse: outputs 1 (a map), model_spec 2."""
        parts = []
        declared = plan.signature.outputs
        try:
            for output, result in zip(plan.outputs, results, strict=True):
                tensor = tensors.tensor_bytes(result, declared[output].data_type, as_content=self._as_content)
                parts.append(len_field(1, len_field(1, output.encode()) + len_field(2, tensor)))
        except ProtoError as error:
            raise Internal(f'output "{output}" cannot be encoded: {error}') from error
        parts.append(self._spec_of(2, servable.name, servable.version, plan.signature.name))
        return b"".join(parts)

    def _spec(self, number: int, asked: Any, servable: Servable) -> bytes:
        return self._spec_of(
            number, servable.name, servable.version, asked.signature_name or DEFAULT_SIGNATURE
        )

    def _spec_of(self, number: int, name: str, version: int, signature_name: str) -> bytes:
        """A response's field `number`, a ModelSpec: the same for all requests that found the same signature."""
        key = (number, name, version, signature_name)
        known = self._spec_bytes.get(key)
        if known is None:
            spec = self._model_spec(name=name, signature_name=signature_name)
            spec.version.value = version
            known = self._spec_bytes[key] = len_field(number, spec.SerializeToString())
        return known
