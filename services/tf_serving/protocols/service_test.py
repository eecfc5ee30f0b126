from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.proto.dtypes import DataType
from libs.serving.call import Call
from libs.serving.errors import FailedPrecondition, InvalidArgument, NotFound
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.model.signature import dtype_name
from services.tf_serving.protocols.service import Service
from services.tf_serving.serving.servables import Servable, Servables
from services.tf_serving.testing import ECHO_DTYPES, predict_request
from services.tf_serving.testing_arrays import PLAIN, QUANTIZED, arrays, official

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"


@pytest.fixture(scope="module")
def servables(models: Path) -> Servables:
    engines = {
        name: Engine.load(models / name / "7", Threads(1))
        for name in ("half_plus_two", "echo", "mixed", "version_1")
    }
    intents = Engine.load(models / "intents" / "7", Threads(1))
    return Servables(
        [
            *[Servable(name, 7, engine) for name, engine in engines.items()],
            Servable("half_plus_two", 12, engines["half_plus_two"]),
            Servable("intents-69", 7, intents),
        ]
    )


@pytest.fixture(params=[False, True], ids=["alone", "batching"])
async def service(request: pytest.FixtureRequest, servables: Servables) -> AsyncIterator[Service]:
    scheduler = Scheduler(threads=1, max_queue=64, max_batch_rows=16 if request.param else None)
    yield Service(servables, scheduler)
    assert await scheduler.close(5)


async def call(service: Service, method: str, request: Any) -> bytes:
    body = request if isinstance(request, bytes) else request.SerializeToString()
    return await service.handlers()[method](Call(method, {}, time.monotonic() + 30), body)


async def predict(service: Service, request: Any) -> Any:
    from tensorflow_serving.apis.predict_pb2 import PredictResponse

    return PredictResponse.FromString(await call(service, PREDICT, request))


async def test_half_plus_two_answers_typed_values_and_says_who_answered(service: Service) -> None:
    response = await predict(
        service, predict_request("half_plus_two", {"x": np.array([[1], [2], [5]], "f4")})
    )
    y = response.outputs["y"]
    assert list(y.float_val) == [2.5, 3.0, 4.5]
    assert [dim.size for dim in y.tensor_shape.dim] == [3, 1]
    assert not y.tensor_content
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half_plus_two", 12, "serving_default")


async def test_strings_in_and_strings_and_floats_out(service: Service) -> None:
    sentence = np.array([[b"sell", b"sell", b"rent", b"\xff"], [b"", b"hire", b"x", b"hire"]], object)
    inputs = {"sentence": sentence, "label": np.array([b"__label__unknown"] * 2, object)}
    response = await predict(service, predict_request("intents-69", inputs, signature="prediction"))
    assert list(response.outputs["output"].string_val) == [
        b"sell",
        b"rent",
        b"hire",
        b"hire",
        b"rent",
        b"sell",
    ]
    assert len(response.outputs["score"].float_val) == 6


async def test_every_dtype_comes_back_as_it_was_sent(service: Service) -> None:
    tf = tensorflow()
    for name in ECHO_DTYPES:
        dtype = getattr(tf, name)
        base = dtype.as_numpy_dtype if not dtype.is_quantized else np.int32
        given = (
            np.array([b"a\x00", b"", "好".encode()], object)
            if name == "string"
            else np.array([0, 1, 3]).astype(base)
        )
        proto = tf.make_tensor_proto(given)
        if dtype.is_quantized:
            proto = tf.make_tensor_proto([0, 1, 3], tf.int32, [3])
            proto.int_val.extend([0, 1, 3])
            proto.tensor_content = b""
            proto.dtype = dtype.as_datatype_enum
        y = (await predict(service, predict_request("echo", {"x": proto}, signature=name))).outputs["y"]
        assert y.dtype == dtype.as_datatype_enum
        if dtype.is_quantized:
            assert list(y.int_val) == [0, 1, 3]
        else:
            assert tf.make_ndarray(y).tolist() == given.tolist(), name


async def test_any_tensor_of_any_dtype_comes_back_bit_for_bit(service: Service) -> None:
    tensorflow()
    from tensorflow_serving.apis.predict_pb2 import PredictResponse

    async def ask(body: bytes) -> bytes:
        return await service.predict(Call(PREDICT, {}, None), body)

    loop = asyncio.get_running_loop()
    names = {DataType.DT_FLOAT: "float32", DataType.DT_DOUBLE: "float64"}

    @settings(max_examples=150, deadline=None)
    @given(arrays([*PLAIN, *QUANTIZED]), st.booleans())
    def check(drawn: Any, typed: bool) -> None:
        data_type, array = drawn
        signature = names.get(data_type, dtype_name(data_type))
        proto = official(array, data_type, typed=typed or data_type in QUANTIZED)
        request = predict_request("echo", {"x": proto}, signature=signature)
        answer = asyncio.run_coroutine_threadsafe(ask(request.SerializeToString()), loop).result(30)
        y = PredictResponse.FromString(answer).outputs["y"]
        assert y.SerializeToString() == official(array, data_type, typed=True).SerializeToString()

    await asyncio.to_thread(check)


async def test_a_filter_chooses_outputs_and_two_names_may_be_one_tensor(service: Service) -> None:
    inputs = {"a": np.array([[1, 2]], "f4"), "b": np.array([[3, 4]], "f4")}
    response = await predict(service, predict_request("mixed", inputs, signature="two"))
    assert {name: list(value.float_val) for name, value in response.outputs.items()} == {
        "sum": [4, 6],
        "product": [3, 8],
        "again": [4, 6],
    }
    chosen = predict_request("mixed", inputs, signature="two", outputs=("product",))
    assert set((await predict(service, chosen)).outputs) == {"product"}


async def test_a_model_of_tensorflow_1_with_a_default_input_and_an_input_as_an_output(
    service: Service,
) -> None:
    x = np.array([[2, 4]], "f4")
    response = await predict(service, predict_request("version_1", {"x": x}))
    assert list(response.outputs["y"].float_val) == [3, 4]
    assert list(response.outputs["given"].float_val) == [2, 4]
    response = await predict(service, predict_request("version_1", {"x": np.float32(2), "key": b"three"}))
    assert list(response.outputs["y"].float_val) == [4]
    assert not response.outputs["y"].tensor_shape.dim
    with pytest.raises(InvalidArgument, match=r"Signature input alias: x\(feed name: x:0\) not found"):
        await predict(service, predict_request("version_1", {"key": b"two"}))


async def test_versions_are_chosen_by_number(service: Service) -> None:
    request = predict_request("half_plus_two", {"x": np.ones((1, 1), "f4")})
    request.model_spec.version.value = 7
    assert (await predict(service, request)).model_spec.version.value == 7
    request.model_spec.version.value = 8
    with pytest.raises(NotFound) as caught:
        await predict(service, request)
    assert caught.value.message == "Servable not found for request: Specific(half_plus_two, 8)"
    request.model_spec.version_label = "stable"
    with pytest.raises(InvalidArgument, match="Unrecognized servable version label: stable"):
        await predict(service, request)


@pytest.mark.parametrize(
    ("name", "inputs", "kwargs", "error", "text"),
    [
        ("nothing-69", {}, {}, NotFound, "Servable not found for request: Latest(nothing-69)"),
        ("", {}, {}, InvalidArgument, "ModelSpec has no name specified."),
        ("mixed", {}, {}, FailedPrecondition, 'Serving signature key "serving_default" not found.'),
        ("half_plus_two", {}, {}, InvalidArgument, "Missing but required: {x}."),
        ("half_plus_two", {"x": [[1.0]], "z": 1}, {}, InvalidArgument, "Sent extra: {z}."),
        ("half_plus_two", {"x": [[1]]}, {}, InvalidArgument, "to be float but int32 is provided"),
        ("half_plus_two", {"x": [1.0]}, {}, InvalidArgument, "expected [?,1] but [1] is given"),
        (
            "half_plus_two",
            {"x": [[1.0]]},
            {"outputs": ("z",)},
            InvalidArgument,
            "alias not found in signature: z",
        ),
        ("mixed", {"i": [3]}, {"signature": "pick"}, InvalidArgument, "indices[0] = 3 is not in [0, 3)"),
    ],
)
async def test_errors_are_tensorflow_servings(
    service: Service, name: str, inputs: dict[str, Any], kwargs: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        await predict(service, predict_request(name, inputs, **kwargs))
    assert text in str(caught.value)


async def test_bytes_that_are_no_request_are_refused(service: Service) -> None:
    for method, message in ((PREDICT, "PredictRequest"), (METADATA, "GetModelMetadataRequest")):
        with pytest.raises(InvalidArgument, match=f"not a tensorflow.serving.{message}"):
            await call(service, method, b"\x0a\xff")
        with pytest.raises(InvalidArgument, match="Missing ModelSpec"):
            await call(service, method, b"")


async def test_metadata_is_the_models_own_signature_map(service: Service, models: Path) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow_serving.apis import get_model_metadata_pb2 as pb

    request = pb.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "intents-69"
    response = pb.GetModelMetadataResponse.FromString(await call(service, METADATA, request))

    assert (response.model_spec.name, response.model_spec.version.value) == ("intents-69", 7)
    signatures = pb.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    graph = SavedModel.FromString((models / "intents" / "7" / "saved_model.pb").read_bytes()).meta_graphs[0]
    assert dict(signatures.signature_def) == dict(graph.signature_def)


async def test_metadata_wants_to_be_told_which(service: Service) -> None:
    from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest

    request = GetModelMetadataRequest()
    request.model_spec.name = "echo"
    with pytest.raises(InvalidArgument, match="must specify at least one metadata_field"):
        await call(service, METADATA, request)
    request.metadata_field.append("weights")
    with pytest.raises(InvalidArgument, match="Metadata field weights is not supported"):
        await call(service, METADATA, request)


async def test_numbers_travel_as_content_where_that_is_switched_on(servables: Servables) -> None:
    scheduler = Scheduler(threads=1, max_queue=8)
    service = Service(servables, scheduler, as_content=True)
    response = await predict(service, predict_request("half_plus_two", {"x": np.ones((2, 1), "f4")}))
    assert response.outputs["y"].tensor_content == np.full(2, 2.5, "f4").tobytes()
    await scheduler.close(5)
