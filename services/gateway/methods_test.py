from __future__ import annotations

from services.gateway.filter import module
from services.gateway.methods import METHODS, Key
from services.gateway.own_services import SERVICES, descriptor_pool

# In TensorFlow Serving's and Triton's own protos, but not among the messages that this project describes.
UNDESCRIBED = {"Classify", "Regress", "MultiInference", "ModelConfig", "ModelStatistics", "SendFeedback"}


def test_paths_are_unique_and_in_the_filter() -> None:
    paths = [method.path for method in METHODS]
    assert len(paths) == len(set(paths))
    rows = module.configuration(10).splitlines()
    assert rows[0] == "limit 10"
    assert [row.split(" ")[3] for row in rows[1:]] == paths
    assert all(len(row.split(" ")) == 5 for row in rows[1:])


def test_only_the_streaming_methods_of_the_protocols_stream() -> None:
    streaming = {method.path.rpartition("/")[2] for method in METHODS if method.streaming}
    assert streaming == {"ModelStreamInfer", "Watch", "ServerReflectionInfo"}


def test_the_pool_describes_every_service_and_method_that_the_project_has() -> None:
    pool = descriptor_pool()
    for method in METHODS:
        _, service, name = method.path.split("/")
        if service.startswith("grpc.reflection.v1.") or name in UNDESCRIBED:
            continue
        assert name in [m.name for m in pool.FindServiceByName(service).methods], method.path
    assert len(SERVICES) == len(set(SERVICES)) == 9


def test_the_four_methods_become_the_backends_own() -> None:
    wpai = {m.path.rpartition("/")[2]: (m.target, m.key) for m in METHODS if "WpaiDLPredictOnline" in m.path}
    assert wpai == {
        "Predict": ("/tensorflow.serving.PredictionService/Predict", Key.SPEC),
        "PytorchPredict": ("/seldon.protos.Model/Predict", Key.META),
        "CaffePredict": ("/seldon.protos.Model/Predict", Key.META),
        "TisPredict": ("/inference.GRPCInferenceService/ModelInfer", Key.NAME),
    }
