"""The methods that callers may use, where each carries its routing key, and the backend method it becomes.

One table for everything: the filter that routes (see filter/module.py), the reflection service, and the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

WPAI = "com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineService"
PREDICTION = "tensorflow.serving.PredictionService"
MODEL_STATUS = "tensorflow.serving.ModelService"
SELDON_MODEL = "seldon.protos.Model"
SELDON = "seldon.protos.Seldon"
KSERVE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

# The routing header. A caller's value is a task id; the filter sets it for everybody else.
TASK_HEADER = "x-dl-task"
# Its value for calls that the gateway answers itself. No caller can send it: a task id is digits.
CONTROL = "gateway"


class Key(StrEnum):
    """Where a request message names its task. The numbers are protobuf field numbers."""

    NAME = "name"  # 1: the model name (inference.ModelInferRequest and its kin)
    SPEC = "spec"  # 1.1: model_spec.name (TensorFlow Serving)
    TASKS = "tasks"  # 1.1.1: tasks[].model_spec.name (MultiInferenceRequest)
    META = "meta"  # 2.2: meta.tags["taskId"] (seldon.protos.SeldonMessage)
    FEEDBACK = "feedback"  # 1.2.2: request.meta.tags["taskId"] (seldon.protos.Feedback)
    HEADER = "header"  # only x-dl-task can say it: the call streams or its message has no name
    CONTROL = "control"  # no task: the gateway answers
    EITHER = "either"  # with x-dl-task the backend answers, without it the gateway


@dataclass(frozen=True, slots=True)
class Method:
    """`path` as called, `target` as the backend knows it. A streaming call is never buffered."""

    path: str
    key: Key
    target: str
    streaming: bool = False


def _own(service: str, key: Key, *names: str, streaming: bool = False) -> list[Method]:
    return [Method(f"/{service}/{name}", key, f"/{service}/{name}", streaming) for name in names]


METHODS: tuple[Method, ...] = (
    Method(f"/{WPAI}/Predict", Key.SPEC, f"/{PREDICTION}/Predict"),
    Method(f"/{WPAI}/PytorchPredict", Key.META, f"/{SELDON_MODEL}/Predict"),
    Method(f"/{WPAI}/CaffePredict", Key.META, f"/{SELDON_MODEL}/Predict"),
    Method(f"/{WPAI}/TisPredict", Key.NAME, f"/{KSERVE}/ModelInfer"),
    *_own(PREDICTION, Key.SPEC, "Predict", "Classify", "Regress", "GetModelMetadata"),
    *_own(PREDICTION, Key.TASKS, "MultiInference"),
    *_own(MODEL_STATUS, Key.SPEC, "GetModelStatus"),
    *_own(SELDON_MODEL, Key.META, "Predict"),
    *_own(SELDON, Key.META, "Predict"),
    *_own(SELDON_MODEL, Key.FEEDBACK, "SendFeedback"),
    *_own(SELDON, Key.FEEDBACK, "SendFeedback"),
    *_own(KSERVE, Key.NAME, "ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"),
    *_own(KSERVE, Key.HEADER, "ModelStreamInfer", streaming=True),
    *_own(KSERVE, Key.EITHER, "ServerLive", "ServerReady", "ServerMetadata"),
    *_own(HEALTH, Key.CONTROL, "Check"),
    *_own(HEALTH, Key.CONTROL, "Watch", streaming=True),
    *[m for s in REFLECTION for m in _own(s, Key.CONTROL, "ServerReflectionInfo", streaming=True)],
)
