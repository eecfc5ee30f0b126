"""Classify, Regress and MultiInference on models made by the official recipes, with the official messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.serving.call import Call
from libs.serving.errors import Internal, InvalidArgument, NotFound, ServingError, Unimplemented
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.model.methods import CLASSIFY, PREDICT, REGRESS, check_predict
from services.tf_serving.protocols.service import Service
from services.tf_serving.serving.servables import Servable, Servables
from services.tf_serving.testing import predict_request
from services.tf_serving.testing_recipes import LABELS, example

NAMES = ("half_plus_two_cpu", "half_plus_two_tf2", "intents_estimator", "ragged")
BOTH = pytest.mark.parametrize("name", ["half_plus_two_cpu", "half_plus_two_tf2"])


@pytest.fixture(scope="module")
def servables(recipe: Callable[[str], Path]) -> Servables:
    return Servables([Servable(name, 7, Engine.load(recipe(name), Threads(1))) for name in NAMES])


@pytest.fixture(params=[False, True], ids=["alone", "batching"])
async def service(request: pytest.FixtureRequest, servables: Servables) -> AsyncIterator[Service]:
    scheduler = Scheduler(threads=1, max_queue=64, max_batch_rows=16 if request.param else None)
    yield Service(servables, scheduler)
    assert await scheduler.close(5)


async def call(service: Service, method: str, request: Any) -> bytes:
    path = f"/tensorflow.serving.PredictionService/{method}"
    body = request if isinstance(request, bytes) else request.SerializeToString()
    return await service.handlers()[path](Call(path, {}, time.monotonic() + 30), body)


def examples_request(kind: Any, model: str, signature: str, examples: list[Any], context: Any = None) -> Any:
    request = kind()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if context is None:
        request.input.example_list.examples.extend(examples)
    else:
        request.input.example_list_with_context.examples.extend(examples)
        request.input.example_list_with_context.context.CopyFrom(context)
    return request


async def classify(
    service: Service, model: str, signature: str, examples: list[Any], context: Any = None
) -> Any:
    tensorflow()
    from tensorflow_serving.apis import classification_pb2 as pb

    request = examples_request(pb.ClassificationRequest, model, signature, examples, context)
    return pb.ClassificationResponse.FromString(await call(service, "Classify", request))


async def regress(
    service: Service, model: str, signature: str, examples: list[Any], context: Any = None
) -> Any:
    tensorflow()
    from tensorflow_serving.apis import regression_pb2 as pb

    request = examples_request(pb.RegressionRequest, model, signature, examples, context)
    return pb.RegressionResponse.FromString(await call(service, "Regress", request))


def multi_request(tasks: list[tuple[str, str, str]], examples: list[Any]) -> Any:
    tensorflow()
    from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest

    request = MultiInferenceRequest()
    for model, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = model
        task.model_spec.signature_name = signature
    request.input.example_list.examples.extend(examples)
    return request


async def infer(service: Service, tasks: list[tuple[str, str, str]], examples: list[Any]) -> Any:
    request = multi_request(tasks, examples)
    from tensorflow_serving.apis.inference_pb2 import MultiInferenceResponse

    return MultiInferenceResponse.FromString(await call(service, "MultiInference", request))


@BOTH
async def test_half_plus_two_regresses_examples(service: Service, name: str) -> None:
    response = await regress(
        service, name, "regress_x_to_y", [example(x=2.0), example(x=-4.0), example(x=0.0)]
    )
    assert [regression.value for regression in response.result.regressions] == [3.0, 0.0, 2.0]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == (name, 7, "regress_x_to_y")
    response = await regress(service, name, "regress_x_to_y2", [example(x=2.0)])
    assert [regression.value for regression in response.result.regressions] == [4.0]


@BOTH
async def test_half_plus_two_classifies_examples_into_scores_alone(service: Service, name: str) -> None:
    response = await classify(service, name, "classify_x_to_y", [example(x=2.0), example(x=-4.0)])
    found = [[(c.label, c.score) for c in row.classes] for row in response.result.classifications]
    assert found == [[("", 3.0)], [("", 0.0)]]
    assert response.model_spec.signature_name == "classify_x_to_y"


async def test_an_estimator_answers_classes_and_scores_as_predict_does(service: Service) -> None:
    examples = [
        example(words=[b"rent", b"flat"], price=4.0),
        example(words=[b"car", b"?"]),
        example(price=1.0),
    ]
    response = await classify(service, "intents_estimator", "", examples)
    assert response.model_spec.signature_name == "serving_default"
    rows = response.result.classifications
    assert [[c.label for c in row.classes] for row in rows] == [list(LABELS)] * 3
    scores = np.array([[c.score for c in row.classes] for row in rows], "f4")

    tf = tensorflow()
    from tensorflow_serving.apis.predict_pb2 import PredictResponse

    given = np.array([made.SerializeToString() for made in examples], object)
    request = predict_request("intents_estimator", {"examples": given}, signature="predict")
    predicted = PredictResponse.FromString(await call(service, "Predict", request)).outputs
    assert (tf.make_ndarray(predicted["probabilities"]) == scores).all()
    assert list(predicted["classes"].string_val) == [b"property", b"vehicle", b"property"]
    np.testing.assert_allclose(scores[2], [1 / 3] * 3, rtol=1e-6)

    only = await classify(service, "intents_estimator", "classes_only", examples[:1])
    assert [(c.label, c.score) for c in only.result.classifications[0].classes] == [(n, 0) for n in LABELS]
    only = await classify(service, "intents_estimator", "scores_only", examples[:1])
    assert [c.label for c in only.result.classifications[0].classes] == [""] * 3
    assert [c.score for c in only.result.classifications[0].classes] == scores[0].tolist()


async def test_a_context_is_part_of_every_example(service: Service) -> None:
    examples = [example(words=[b"car"]), example(words=[b"flat"])]
    plain = await regress(service, "intents_estimator", "regression", examples)
    assert [r.value for r in plain.result.regressions] == [0.0, 0.0]
    response = await regress(service, "intents_estimator", "regression", examples, context=example(price=8.0))
    assert [r.value for r in response.result.regressions] == [2.0, 2.0]


async def test_several_inferences_are_one_run_of_the_model(service: Service, servables: Servables) -> None:
    tasks = [
        ("half_plus_two_cpu", "regress_x_to_y", REGRESS),
        ("half_plus_two_cpu", "classify_x_to_y", CLASSIFY),
        ("half_plus_two_cpu", "regress_x_to_y2", REGRESS),
    ]
    response = await infer(service, tasks, [example(x=2.0), example(x=4.0)])
    first, second, third = response.results
    assert [r.value for r in first.regression_result.regressions] == [3.0, 4.0]
    assert [r.classes[0].score for r in second.classification_result.classifications] == [3.0, 4.0]
    assert [r.value for r in third.regression_result.regressions] == [4.0, 5.0]
    assert [r.model_spec.signature_name for r in response.results] == [task[1] for task in tasks]
    assert {(r.model_spec.name, r.model_spec.version.value) for r in response.results} == {
        ("half_plus_two_cpu", 7)
    }


async def test_several_inferences_of_tensorflow_2_have_an_input_each_and_share_its_value(
    service: Service,
) -> None:
    tasks = [
        ("half_plus_two_tf2", "classify_x_to_y", CLASSIFY),
        ("half_plus_two_tf2", "regress_x_to_y2", REGRESS),
    ]
    first, second = (await infer(service, tasks, [example(x=2.0)])).results
    assert [r.classes[0].score for r in first.classification_result.classifications] == [3.0]
    assert [r.value for r in second.regression_result.regressions] == [4.0]


async def test_many_at_a_time_get_their_own_answers(service: Service) -> None:
    async def one(number: int) -> list[float]:
        examples = [example(x=float(number)), example(x=float(-number))]
        response = await regress(service, "half_plus_two_cpu", "regress_x_to_y", examples)
        return [r.value for r in response.result.regressions]

    answers = await asyncio.gather(*[one(number) for number in range(24)])
    assert answers == [[number / 2 + 2, -number / 2 + 2] for number in range(24)]


@pytest.mark.parametrize(
    ("model", "signature", "error", "text"),
    [
        ("nothing", "", NotFound, "Servable not found for request: Latest(nothing)"),
        ("", "", InvalidArgument, "ModelSpec has no name specified."),
        ("intents_estimator", "no", InvalidArgument, "No signature was found with the name: no"),
        ("half_plus_two_cpu", "", InvalidArgument, "No classification inputs found in SignatureDef: inputs {x}"),
        ("half_plus_two_cpu", "regress_x_to_y", InvalidArgument,
         'Expected classification signature outputs to contain at least one of "classes" or "scores". '
         "Signature was: inputs {inputs} outputs {outputs}"),
        ("intents_estimator", "predict", InvalidArgument, "Expected one or two output Tensors, found 3"),
        ("intents_estimator", "flat_scores", InvalidArgument,
         "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        ("intents_estimator", "double_scores", InvalidArgument,
         "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        ("intents_estimator", "first_only", InvalidArgument, "Expected scores output batch size of 2. Got: 1"),
        ("intents_estimator", "narrow", InvalidArgument,
         "Tensors class and score should match in dim_size(1). Got 3 vs. 2"),
    ],
)  # fmt: skip
async def test_classify_refuses_as_tensorflow_serving_does(
    service: Service, model: str, signature: str, error: type[ServingError], text: str
) -> None:
    with pytest.raises(error) as caught:
        await classify(service, model, signature, [example(x=1.0), example(x=2.0)])
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("model", "signature", "error", "text"),
    [
        ("nothing", "", NotFound, "Servable not found for request: Latest(nothing)"),
        ("half_plus_two_cpu", "no", InvalidArgument, "No signature was found with the name: no"),
        ("half_plus_two_cpu", "", InvalidArgument, "No regression inputs found in SignatureDef: inputs {x}"),
        ("half_plus_two_cpu", "classify_x_to_y", InvalidArgument,
         "No regression outputs found in SignatureDef: inputs {inputs} outputs {scores}"),
        ("half_plus_two_cpu", "regress_x2_to_y3", InvalidArgument,
         "Expects arg[0] to be float but string is provided"),
        ("intents_estimator", "serving_default", InvalidArgument, "Expected one output Tensor."),
        ("intents_estimator", "wide_regression", InvalidArgument,
         "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,3]"),
        ("intents_estimator", "first_regression", InvalidArgument,
         "Input batch size did not match output batch size: 2 vs. 1"),
        ("intents_estimator", "double_regression", InvalidArgument,
         "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
    ],
)  # fmt: skip
async def test_regress_refuses_as_tensorflow_serving_does(
    service: Service, model: str, signature: str, error: type[ServingError], text: str
) -> None:
    with pytest.raises(error) as caught:
        await regress(service, model, signature, [example(x=1.0), example(x=2.0)])
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("tasks", "error", "text"),
    [
        ([], InvalidArgument, "ModelSpec has no name specified."),
        ([("", "", REGRESS)], InvalidArgument, "ModelSpec has no name specified."),
        ([("half_plus_two_cpu", "regress_x_to_y", REGRESS), ("", "", CLASSIFY)], InvalidArgument,
         "Found ModelSpec with an empty model name."),
        ([("half_plus_two_cpu", "regress_x_to_y", REGRESS), ("ragged", "", REGRESS)], InvalidArgument,
         "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
        ([("half_plus_two_cpu", "regress_x_to_y", REGRESS)] * 2, InvalidArgument,
         "Duplicate evaluation of signature: regress_x_to_y"),
        ([("half_plus_two_cpu", "no", REGRESS)], InvalidArgument,
         "Requested signature not found in model graph: no"),
        ([("half_plus_two_cpu", "classify_x_to_y", PREDICT)], Unimplemented,
         "Unsupported signature method_name: tensorflow/serving/predict"),
        ([("half_plus_two_cpu", "classify_x_to_y", REGRESS)], InvalidArgument,
         "No regression outputs found in SignatureDef"),
    ],
)  # fmt: skip
async def test_multi_inference_refuses_as_tensorflow_serving_does(
    service: Service, tasks: list[tuple[str, str, str]], error: type[ServingError], text: str
) -> None:
    with pytest.raises(error) as caught:
        await infer(service, tasks, [example(x=1.0)])
    assert text in caught.value.message


async def test_requests_without_examples_or_of_other_bytes_are_refused(service: Service) -> None:
    with pytest.raises(InvalidArgument, match=r"^Input is empty\.$"):
        await regress(service, "half_plus_two_cpu", "regress_x_to_y", [])
    with pytest.raises(InvalidArgument, match=r"^Input is empty\.$"):
        await classify(service, "intents_estimator", "", [], context=example(price=1.0))
    with pytest.raises(InvalidArgument, match=r"^Input is empty\.$"):
        await infer(service, [("half_plus_two_cpu", "regress_x_to_y", REGRESS)], [])
    for method, message in (("Classify", "ClassificationRequest"), ("Regress", "RegressionRequest")):
        with pytest.raises(InvalidArgument, match="^Missing ModelSpec$"):
            await call(service, method, b"")
        for body in (b"\x0a\xff", b"\x0a\x02\x0a\x05"):
            with pytest.raises(InvalidArgument, match=f"not a tensorflow.serving.{message}: "):
                await call(service, method, body)
    with pytest.raises(InvalidArgument, match=r"not a tensorflow.serving.MultiInferenceRequest: "):
        await call(service, "MultiInference", b"\x0a\x02\x0a\x05")
    spec = b"\x0a\x13\x0a\x11half_plus_two_cpu"
    with pytest.raises(InvalidArgument, match=r"not a tensorflow.serving.RegressionRequest: "):
        await call(service, "Regress", spec + b"\x12\x02\x0a\x05")


async def test_an_example_that_lacks_a_feature_is_the_callers_mistake(service: Service) -> None:
    with pytest.raises(
        InvalidArgument, match=r"Feature: x \(data type: float\) is required but could not be found"
    ):
        await regress(service, "half_plus_two_cpu", "regress_x_to_y", [example(x=1.0), example(z=1.0)])


async def test_an_input_in_pieces_is_the_input_of_the_joined_pieces(service: Service) -> None:
    """Protobuf lets a writer send a message in parts; a list after a list of the other kind replaces it."""
    tensorflow()
    from tensorflow_serving.apis import regression_pb2 as pb

    def part(value: float, context: Any = None) -> Any:
        return examples_request(
            pb.RegressionRequest, "half_plus_two_cpu", "regress_x_to_y", [example(x=value)], context
        )

    whole = pb.RegressionRequest()
    for values, with_context in (([2.0, 4.0], False), ([2.0, 6.0], True)):
        parts = [part(value, example(x2=0.0) if with_context else None) for value in values]
        if with_context:
            parts.insert(0, part(100.0))
        body = b"".join(made.SerializeToString() for made in parts)
        whole.ParseFromString(body)
        response = pb.RegressionResponse.FromString(await call(service, "Regress", body))
        answer = [r.value for r in response.result.regressions]
        assert answer == [value / 2 + 2 for value in values]
        normal = await call(service, "Regress", whole.SerializeToString())
        assert [r.value for r in pb.RegressionResponse.FromString(normal).result.regressions] == answer


async def test_where_methods_are_checked_a_signature_must_have_been_made_for_its_method(
    servables: Servables,
) -> None:
    scheduler = Scheduler(threads=1, max_queue=8)
    service = Service(servables, scheduler, check_method_name=True)
    given = [example(x=2.0)]
    assert (await regress(service, "half_plus_two_cpu", "regress_x_to_y", given)).result.regressions
    assert (await classify(service, "half_plus_two_cpu", "classify_x_to_y", given)).result.classifications
    with pytest.raises(InvalidArgument) as caught:
        await regress(service, "half_plus_two_tf2", "regress_x_to_y", given)
    assert caught.value.message == (
        f"Expected regression signature method_name to be {REGRESS}. Was: {PREDICT}"
    )
    with pytest.raises(InvalidArgument) as caught:
        await classify(service, "half_plus_two_cpu", "regress_x_to_y", given)
    assert caught.value.message == (
        f"Expected classification signature method_name to be {CLASSIFY}. Was: {REGRESS}"
    )
    request = predict_request("half_plus_two_cpu", {"x": np.ones((1, 1), "f4")})
    assert await call(service, "Predict", request)
    signature = servables.find(request.model_spec).engine.signatures["serving_default"]
    with pytest.raises(
        Internal, match="Expected prediction signature method_name to be one of .* Was: train"
    ):
        check_predict(replace(signature, method_name="train"))
    assert await scheduler.close(5)
