"""10,000 requests, every answer compared with what tf.saved_model.load(...) gives for the same inputs.

Seeded, so that a failure comes again. The answers are read by TensorFlow itself where it reads their dtype.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.proto.dtypes import ELEMENT_TYPES, DataType
from libs.proto.tensor import decode_tensor
from libs.serving.batch_observer import Unobserved
from libs.serving.call import Call
from services.tf_serving.execution.batch_rules import BatchRules
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.protocols.service import Service
from services.tf_serving.serving.servables import Servable, Servables
from services.tf_serving.testing import predict_request
from services.tf_serving.testing_arrays import cut_short, official, random_array, with_content
from services.tf_serving.testing_recipes import DTYPES, VOCABULARY, example, tensor_dtype

OF_A_DTYPE = 240
OF_DTYPES = OF_A_DTYPE * len(DTYPES)
OF_A_MODEL = (10_000 - OF_DTYPES) // 5
TOTAL = OF_DTYPES + 5 * OF_A_MODEL
AT_A_TIME = 40


class Ran(Unobserved):
    """Counts runs."""

    def __init__(self) -> None:
        self.runs = 0

    def ran(self, items: int, rows: int, waited_s: float, run_s: float) -> None:
        self.runs += 1


class Served:
    """A model behind a Service, and the same model as tf.saved_model.load gives it."""

    def __init__(self, path: Path, *, as_content: bool = False, batch: int | None = None) -> None:
        tf = tensorflow()
        self.ran = Ran()
        self.scheduler = Scheduler(
            threads=2,
            max_queue=4096,
            max_batch_rows=batch,
            rules=BatchRules(allowed_rows=(3, 16, batch)) if batch else None,
            observer=self.ran,
            in_place=batch is None,  # a call in place has no company
        )
        servables = Servables([Servable("m", 7, Engine.load(path, Threads(1)))])
        self.service = Service(servables, self.scheduler, as_content=as_content)
        self.loaded = tf.saved_model.load(str(path))
        self.signatures = self.loaded.signatures
        self.requests = 0

    async def answer(self, request: Any) -> Any:
        from tensorflow_serving.apis.predict_pb2 import PredictResponse

        self.requests += 1
        body = request.SerializeToString()
        return PredictResponse.FromString(await self.service.predict(Call("Predict", {}), body)).outputs

    def expected(self, signature: str, **inputs: Any) -> dict[str, Any]:
        answers = self.signatures[signature](**inputs)
        return {name: as_array(value.numpy()) for name, value in answers.items()}


def as_array(value: Any) -> np.ndarray[Any, Any]:
    """TensorFlow gives a scalar string as bytes, of which numpy would drop zeros at the end."""
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def values_of(array: np.ndarray[Any, Any]) -> object:
    """What is equal for equal bits: bytes, or a list of strings. Of integers of less than a byte the bits
    above are nobody's."""
    if array.dtype == object:
        return array.reshape(-1).tolist()
    return (array.astype("i1") if array.dtype.name in ("int2", "uint2", "int4", "uint4") else array).tobytes()


def written(array: np.ndarray[Any, Any], data_type: DataType, form: str) -> Any:
    if form == "content" and data_type is not DataType.DT_STRING:
        return with_content(array, data_type)
    proto = official(array, data_type, typed=True)
    return cut_short(proto) if form == "short" else proto


def read(proto: Any) -> np.ndarray[Any, Any]:
    """The values of an answer by TensorFlow's own reader where it knows the dtype."""
    tf = tensorflow()
    if tf.as_dtype(proto.dtype).name in DTYPES[:16]:
        return as_array(tf.make_ndarray(proto))
    return decode_tensor(proto.SerializeToString())


@pytest.fixture(scope="module")
def dtypes(recipe: Callable[[str], Path]) -> Path:
    return recipe("dtypes")


def test_they_are_ten_thousand() -> None:
    assert TOTAL == 10_000 and OF_A_DTYPE % (2 * AT_A_TIME) == 0
    names = {DataType(tensor_dtype(name).as_datatype_enum) for name in DTYPES}
    assert names == {DataType(number) for number in ELEMENT_TYPES}


@pytest.mark.parametrize("as_content", [False, True], ids=["typed", "content"])
async def test_every_dtype_in_every_form_is_answered_as_tensorflow_answers_it(
    dtypes: Path, as_content: bool
) -> None:
    tf = tensorflow()
    served = Served(dtypes, as_content=as_content, batch=32 if as_content else None)
    for name in DTYPES:
        random = np.random.default_rng(zlib.crc32(name.encode()) + as_content)
        dtype = tensor_dtype(name)
        data_type = DataType(dtype.as_datatype_enum)
        for _ in range(OF_A_DTYPE // 2 // AT_A_TIME):
            given = [random_array(random, data_type) for _ in range(AT_A_TIME)]
            forms = [("typed", "content", "short")[int(n)] for n in random.integers(0, 3, AT_A_TIME)]
            requests = [
                predict_request("m", {"x": written(array, data_type, form)}, signature=name)
                for array, form in zip(given, forms, strict=True)
            ]
            answers = await asyncio.gather(*[served.answer(request) for request in requests])
            for array, form, answer in zip(given, forms, answers, strict=True):
                fed = array.view(dtype.as_numpy_dtype) if dtype.is_quantized else array
                expected = served.expected(name, x=tf.constant(fed, dtype, shape=array.shape))
                assert set(answer) == set(expected)
                for output, values in expected.items():
                    found = answer[output]
                    assert bool(found.tensor_content) == (
                        as_content and values.size > 0 and data_type is not DataType.DT_STRING
                    )
                    shape = tuple(dim.size for dim in found.tensor_shape.dim)
                    assert (found.dtype, shape) == (data_type, values.shape), (name, form, output)
                    assert values_of(read(found)) == values_of(values), (name, form, output, array)
    assert served.requests == OF_DTYPES // 2
    assert await served.scheduler.close(5)


async def compare(served: Served, signature: str, calls: list[dict[str, Any]], *, exactly: bool) -> None:
    tf = tensorflow()
    for first in range(0, len(calls), AT_A_TIME):
        some = calls[first : first + AT_A_TIME]
        requests = [predict_request("m", inputs, signature=signature) for inputs in some]
        answers = await asyncio.gather(*[served.answer(request) for request in requests])
        for inputs, answer in zip(some, answers, strict=True):
            constants = {name: tf.constant(value) for name, value in inputs.items()}
            expected = served.expected(signature, **constants)
            assert set(answer) == set(expected)
            for name, values in expected.items():
                found = read(answer[name])
                assert found.shape == values.shape
                if exactly or values.dtype == object:
                    assert values_of(found) == values_of(values), (signature, name, inputs)
                else:
                    np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)


def words(random: np.random.Generator, shape: tuple[int, ...], choice: list[bytes]) -> np.ndarray[Any, Any]:
    picked = np.empty(shape, object)
    picked[...] = np.array(choice, object)[random.integers(0, len(choice), shape)]
    return picked


async def test_models_answer_alone_and_in_batches_as_tensorflow_answers(
    recipe: Callable[[str], Path], models: Path
) -> None:
    tensorflow()
    random = np.random.default_rng(1)
    rows = random.integers(0, 5, OF_A_MODEL)
    letters = [bytes([letter]) for letter in b"abcdefghxyz"] + [b"<pad>", b"<eos>", b"\xff"]
    texts = [{"sentence": words(random, (int(n), 72), letters), "label": words(random, (int(n),), [b"?"])}
             for n in rows]  # fmt: skip
    numbers = [{"x": random.normal(size=(int(n), 1)).astype("f4")} for n in rows]
    pairs = [{"a": random.normal(size=(int(n), 2)).astype("f4"), "b": random.normal(size=(int(n), 2)).astype("f4")}
             for n in rows]  # fmt: skip
    phrases = [{"words": words(random, (int(n), int(random.integers(1, 6))), [b"to", "好".encode(), b"be", b""])}
               for n in rows]  # fmt: skip
    advertisements = []
    for n in rows:
        made = np.empty(int(n), object)
        made[:] = [
            example(
                words=[VOCABULARY[int(i)].encode() for i in random.integers(0, 5, int(random.integers(0, 4)))]
                or [b"?"],
                price=float(random.normal()),
            ).SerializeToString()
            for _ in range(int(n))
        ]
        advertisements.append({"examples": made})
    for path, signature, calls, exactly in (
        (models / "half_plus_two" / "7", "serving_default", numbers, True),
        (models / "mixed" / "7", "two", pairs, True),
        (recipe("ragged"), "serving_default", phrases, True),
        (recipe("textcnn"), "prediction", texts, False),
        (recipe("intents_estimator"), "predict", advertisements, False),
    ):
        half = len(calls) // 2
        for batch, some in ((64, calls[:half]), (None, calls[half:])):
            served = Served(path, batch=batch)
            await compare(served, signature, some, exactly=exactly)
            assert served.requests == half
            assert served.ran.runs < half if batch else served.ran.runs == half
            assert await served.scheduler.close(5)
