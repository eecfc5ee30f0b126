"""The REST API of a server as a process, each answer compared with what tf.saved_model.load gives for the same."""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from libs.proto.dtypes import DataType, element_type
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.testing import predict_request, save_constant
from services.tf_serving.testing_recipes import LABELS, example
from services.tf_serving.testing_rest import Served, ask, served_by_rest

FLOATS = ("float32", "float64", "half", "bfloat16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NOT_SERVED = ("complex64", "complex128", "qint8", "quint8", "qint16", "quint16", "qint32")
LIMIT = 1 << 20
TIMEOUT_MS = 2000


@pytest.fixture(scope="module")
def served(
    models: Path, recipe: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    base = tmp_path_factory.mktemp("rest")
    for version in (1, 2):
        save_constant(base / "versions" / str(version), version)
    paths = {name: models / name / "7" for name in ("echo", "mixed", "intents")}
    paths |= {name: recipe(name) for name in ("half_plus_two_cpu", "intents_estimator", "ragged")}
    more = (
        f'name: "versions" base_path: "{base}/versions" model_version_policy {{ all {{}} }} '
        'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }',
        f'name: "a b/c" base_path: "{base}/versions"',
    )
    flags = (f"--max_message_bytes={LIMIT}", f"--rest_api_timeout_in_ms={TIMEOUT_MS}", "--model_threads=1")
    with served_by_rest(base / "models.config", paths, more, flags) as found:
        yield found


def test_the_example_that_everybody_knows(served: Served) -> None:
    """Of the documentation of TensorFlow Serving: rows that are plain values, for a model of [?,1]."""
    for path in ("half_plus_two_cpu", "half_plus_two_cpu/versions/7"):
        assert served.rest.post(f"{path}:predict", {"instances": [1.0, 2.0, 5.0]}) == (
            200,
            {"predictions": [2.5, 3.0, 4.5]},
        )
    assert served.rest.post("half_plus_two_cpu:predict", {"inputs": [3.0, 4.0]}) == (
        200,
        {"outputs": [3.5, 4.0]},
    )
    expected = served.run("half_plus_two_cpu", x=np.array([[1], [2.5]], "f4"))["y"].tolist()
    body = {"signature_name": "serving_default", "instances": [[1.0], [2.5]]}
    assert served.rest.post("half_plus_two_cpu:predict", body) == (200, {"predictions": expected})


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS, "bool"])
def test_every_dtype_in_both_formats(served: Served, name: str) -> None:
    tf = tensorflow()
    dtype = getattr(tf, name)
    values: list[Any]
    if name in FLOATS:
        values = [[0.1, -2.5, 3.0], [1e-3, 1e30, -0.0], [float("nan"), float("inf"), -float("inf")]]
    elif name == "bool":
        values = [[True, False], [False, False]]
    else:
        bounds = np.iinfo(dtype.as_numpy_dtype)
        values = [[0, 1, int(bounds.max)], [int(bounds.min), 7, 2]]
    with np.errstate(over="ignore"):
        given = np.array(values, dtype.as_numpy_dtype if name in INTEGERS else None).astype(
            dtype.as_numpy_dtype
        )
    expected = served.run("echo", name, x=tf.constant(given, dtype))["y"]
    for key, answer in (("instances", "predictions"), ("inputs", "outputs")):
        status, got = served.rest.post("echo:predict", {"signature_name": name, key: values})
        assert status == 200 and list(got) == [answer]
        if name in FLOATS:
            with np.errstate(over="ignore"):
                again = np.array(got[answer]).astype(expected.dtype).astype("f8")
            np.testing.assert_array_equal(again, expected.astype("f8"))
        else:
            assert got[answer] == expected.tolist()


def test_strings_and_bytes(served: Served) -> None:
    values = ["a", "", "é€", {"b64": base64.b64encode(b"bytes \x00").decode()}]
    expected = served.run("echo", "string", x=tensorflow().constant([b"a", b"", "é€".encode(), b"bytes \0"]))[
        "y"
    ]
    body = {"signature_name": "string", "instances": values}
    assert served.rest.post("echo:predict", body) == (
        200,
        {"predictions": [value.decode() for value in expected.tolist()]},
    )
    raw = b'{"signature_name": "string", "inputs": {"b64": "//79"}}'
    status, _, answer = ask(served.rest.address, "POST", "/v1/models/echo:predict", raw)
    assert (status, answer) == (200, b'{"outputs": "\xff\xfe\xfd"}')  # as TensorFlow Serving writes it
    body = {"signature_name": "string", "inputs": ["\ud800"]}
    assert served.rest.error("echo:predict", body)[0] == 400


@pytest.mark.parametrize("name", NOT_SERVED)
def test_dtypes_that_json_has_no_form_for(served: Served, name: str) -> None:
    status, text = served.rest.error("echo:predict", {"signature_name": name, "inputs": [1]})
    assert (status, text) == (501, f"Conversion of JSON Value: 1 to type: {name}")


def test_an_output_that_cannot_be_written(served: Served) -> None:
    body = {"signature_name": "total", "instances": [1.0]}
    assert served.rest.error("mixed:predict", body) == (400, "Tensor name: y has no shape information ")
    wanted = served.run("mixed", "total", x=np.ones((2, 1), "f4"))["y"].tolist()
    body = {"signature_name": "total", "inputs": [[1.0], [1.0]]}
    assert served.rest.post("mixed:predict", body) == (200, {"outputs": wanted})


def test_several_inputs_and_outputs(served: Served) -> None:
    a, b = [[1.5, 2], [5, 6]], [[3, 4], [7, 8.25]]
    expected = served.run("mixed", "two", a=np.array(a, "f4"), b=np.array(b, "f4"))
    rows = [{"a": x, "b": y} for x, y in zip(a, b, strict=True)]
    status, got = served.rest.post("mixed:predict", {"signature_name": "two", "instances": rows})
    assert status == 200
    assert got["predictions"] == [{name: expected[name][row].tolist() for name in expected} for row in (0, 1)]
    status, got = served.rest.post("mixed:predict", {"signature_name": "two", "inputs": {"a": a, "b": b}})
    assert (status, got["outputs"]) == (200, {name: value.tolist() for name, value in expected.items()})


def test_a_model_of_strings_with_a_table(served: Served) -> None:
    sentence, label = [["rent", "hire", "x", "rent"], ["sell"] * 4], ["a", "b"]
    expected = served.run(
        "intents", "prediction", sentence=np.array(sentence, object), label=np.array(label, object)
    )
    body = {"signature_name": "prediction", "inputs": {"sentence": sentence, "label": label}}
    status, got = served.rest.post("intents:predict", body)
    assert status == 200
    assert got["outputs"]["output"] == [
        [cell.decode() for cell in row] for row in expected["output"].tolist()
    ]
    np.testing.assert_array_equal(np.array(got["outputs"]["score"], "f4"), expected["score"])


def test_rows_of_unequal_lengths(served: Served) -> None:
    words = [["ab", "c", ""], ["d", "", ""]]
    expected = served.run("ragged", words=np.array(words, object))
    status, got = served.rest.post("ragged:predict", {"inputs": words})
    assert status == 200 and got["outputs"]["joined"] == [
        text.decode() for text in expected["joined"].tolist()
    ]
    assert served.rest.error("ragged:predict", {"instances": [["ab", "c"], ["d"]]}) == (
        400,
        "Failed to process element: 1 of 'instances' list. "
        "Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1",
    )


def test_classify_and_regress(served: Served) -> None:
    given = [{"x": 1.0}, {"x": 3.5, "x2": 7.0}]
    serialized = [example(**each).SerializeToString() for each in given]
    inputs = tensorflow().constant(serialized)
    regressed = (
        served.run("half_plus_two_cpu", "regress_x_to_y2", inputs=inputs)["outputs"].reshape(-1).tolist()
    )
    body: dict[str, Any] = {"signature_name": "regress_x_to_y2", "examples": given}
    for path in ("half_plus_two_cpu:regress", "half_plus_two_cpu/versions/7:regress"):
        assert served.rest.post(path, body) == (200, {"results": regressed})
    classified = served.run("half_plus_two_cpu", "classify_x_to_y", inputs=inputs)["scores"].tolist()
    body = {"signature_name": "classify_x_to_y", "examples": given}
    assert served.rest.post("half_plus_two_cpu:classify", body) == (
        200,
        {"results": [[["", score[0]]] for score in classified]},
    )
    body = {"signature_name": "classify_x_to_y", "context": {"x": 8}, "examples": [{}, {}]}
    assert served.rest.error("half_plus_two_cpu:classify", body)[0] == 400  # a whole number is no float
    body["context"] = {"x": 8.0}
    assert served.rest.post("half_plus_two_cpu:classify", body) == (200, {"results": [[["", 6.0]]] * 2})


def test_classify_with_labels(served: Served) -> None:
    given = [{"words": ["car", "sell"], "price": 4.0}, {"words": {"b64": "ZmxhdA=="}, "price": 8.0}]
    status, got = served.rest.post("intents_estimator:classify", {"examples": given})
    assert status == 200
    serialized = [
        example(words=[b"car", b"sell"], price=4.0).SerializeToString(),
        example(words=b"flat", price=8.0).SerializeToString(),
    ]
    expected = served.run("intents_estimator", inputs=tensorflow().constant(serialized))
    assert [[label for label, _ in row] for row in got["results"]] == [list(LABELS)] * 2
    scores = np.array([[score for _, score in row] for row in got["results"]], "f4")
    np.testing.assert_array_equal(scores, expected["scores"])


def test_versions_and_labels(served: Served) -> None:
    for path, value in (
        ("versions", 2.0),
        ("versions/versions/1", 1.0),
        ("versions/versions/2", 2.0),
        ("versions/labels/stable", 1.0),
        ("versions/labels/canary", 2.0),
        ("a%20b%2Fc", 2.0),
        ("a%20b%2Fc/versions/2", 2.0),
    ):
        assert served.rest.post(f"{path}:predict", {"instances": [0.0]}) == (
            200,
            {"predictions": [value]},
        ), path
    body = {"instances": [0.0]}
    assert served.rest.error("versions/versions/3:predict", body) == (
        404,
        "Servable not found for request: Specific(versions, 3)",
    )
    assert served.rest.error("versions/labels/no:predict", body) == (
        400,
        "Unrecognized servable version label: no",
    )


def version_status(number: int) -> dict[str, Any]:
    return {
        "version": str(number),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }


def test_status(served: Served) -> None:
    for path, numbers in (
        ("versions", (2, 1)),
        ("versions/versions/1", (1,)),
        ("versions/labels/canary", (2,)),
    ):
        wanted = {"model_version_status": [version_status(number) for number in numbers]}
        assert served.rest.get(path) == (200, wanted)
    assert served.rest.get("no") == (404, {"error": "Could not find any versions of model no"})
    assert served.rest.get("versions/versions/9")[0] == 404
    assert served.rest.get("versions/labels/no") == (
        400,
        {"error": "Unrecognized servable version label: no"},
    )


def test_metadata(served: Served) -> None:
    tensorflow()
    from google.protobuf import json_format
    from tensorflow_serving.apis import get_model_metadata_pb2 as pb
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    for path in ("half_plus_two_cpu/metadata", "half_plus_two_cpu/versions/7/metadata"):
        status, got = served.rest.get(path)
        assert status == 200
        assert got["model_spec"] == {"name": "half_plus_two_cpu", "signature_name": "", "version": "7"}
        dims = got["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["x"][
            "tensor_shape"
        ]
        assert dims == {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False}
        asked = pb.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = "half_plus_two_cpu"
        with grpc.insecure_channel(served.grpc_address) as channel:
            answer = PredictionServiceStub(channel).GetModelMetadata(asked, timeout=20)
        signatures = pb.SignatureDefMap.FromString(answer.metadata["signature_def"].value)
        assert json_format.ParseDict(got["metadata"]["signature_def"], pb.SignatureDefMap()) == signatures
    assert served.rest.get("no/metadata") == (404, {"error": "Servable not found for request: Latest(no)"})


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("half_plus_two_cpu:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("half_plus_two_cpu:predict", b"instances = [1]", 400, "JSON Parse error: Invalid value. at offset: 0"),
        ("half_plus_two_cpu:predict", b"[]", 400, "JSON Value: [] Is not object"),
        ("half_plus_two_cpu:predict", b'{"instances": ["x", "y"]}', 400,
         "Failed to process element: 0 of 'instances' list. "
         'Error: INVALID_ARGUMENT: JSON Value: "x" Type: String is not of expected type: float'),
        ("half_plus_two_cpu:predict", b'{"signature_name": 100}', 400,
         'JSON Value: {"signature_name": 100} not formatted correctly. '
         "'signature_name' key must be a string value."),
        ("half_plus_two_cpu:predict", b'{"signature_name": "no", "instances": [1]}', 400,
         'Serving signature name: "no" not found in signature def'),
        ("half_plus_two_cpu:predict", b'{"instances": [[1, 2]]}', 400,
         'input "x" of signature "serving_default" has the wrong shape: expected [?,1] but [1,2] is given'),
        ("half_plus_two_cpu:regress", b'{"signature_name": "no", "examples": [{"x": 1.0}]}', 400,
         "No signature was found with the name: no"),
        ("half_plus_two_cpu:classify", b'{"examples": [{"x": 1.0}]}', 400,
         "No classification inputs found in SignatureDef: inputs {x} outputs {y}"),
        ("mixed:predict", b'{"signature_name": "pick", "instances": [5]}', 400, "indices[0] = 5 is not in [0, 3)"),
        ("no:predict", b'{"instances": [1]}', 404, "Servable not found for request: Latest(no)"),
        ("no:classify", b'{"examples": [{}]}', 404, "Servable not found for request: Latest(no)"),
        ("no:predict", b"{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
        ("versions/versions/18446744073709551615:regress", b"{}", 400,
         "Failed to convert version: 18446744073709551615 to numeric."),
    ],
)  # fmt: skip
def test_errors_have_tensorflow_servings_codes_and_texts(
    served: Served, path: str, body: bytes, status: int, text: str
) -> None:
    code, said = served.rest.error(path, body)
    assert code == status and text in said


def test_paths_that_are_none(served: Served) -> None:
    for method, path in (("GET", "/v1/foo"), ("PUT", "/v1/models/m:predict")):
        status, kind, body = ask(served.rest.address, method, path, b"" if method != "GET" else None)
        assert (status, kind) == (400, "application/json")
        assert json.loads(body) == {"error": f"Malformed request: {method} {path}"}
    status, _, body = ask(served.rest.address, "GET", "/v1/models")
    assert (status, json.loads(body)) == (400, {"error": "Missing model name in request."})
    assert ask(served.rest.address, "GET", "/nothing")[0] == 404


def test_both_ports_serve_it_and_one_alone_grpc(served: Served) -> None:
    body = b'{"instances": [0]}'
    for address in (served.rest.address, served.grpc_address):
        assert ask(address, "POST", "/v1/models/versions:predict", body)[2] == b'{"predictions": [2.0]}'
        assert ask(address, "GET", "/health/ready")[0] == 200
    with grpc.insecure_channel(served.rest.address) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as caught:
            call(predict_request("versions", {"x": [1.0]}).SerializeToString(), timeout=20)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_without_a_monitoring_file_there_are_only_the_servers_own_metrics(served: Served) -> None:
    for address in (served.rest.address, served.grpc_address):
        assert ask(address, "GET", "/monitoring/prometheus/metrics")[0] == 404
        assert ask(address, "GET", "/metrics")[0] == 200


def test_large_bodies_and_compressed_ones(served: Served) -> None:
    values = np.arange(120_000, dtype="f4").tolist()
    body = json.dumps({"signature_name": "float32", "inputs": values}).encode()
    assert len(body) > LIMIT
    status, answer = served.rest.post("echo:predict", body)
    assert (status, list(answer)) == (413, ["error"])
    status, answer = served.rest.post("echo:predict", gzip.compress(body), content_encoding="gzip")
    assert (status, list(answer)) == (413, ["error"])
    half = json.dumps({"signature_name": "float32", "inputs": values[:60_000]}).encode()
    for sent, headers in ((half, {}), (gzip.compress(half), {"content_encoding": "gzip"})):
        status, answer = served.rest.post("echo:predict", sent, **headers)
        assert status == 200 and answer["outputs"] == values[:60_000]
    status, text = served.rest.error("echo:predict", half[:-2])
    assert status == 400 and text.startswith("JSON Parse error: ")


def test_requests_at_a_time_get_their_own_answers(served: Served) -> None:
    def wanted(number: int) -> list[Any]:
        return [number / 2 + 2, (number + 1) / 2 + 2]

    def got(number: int) -> object:
        return served.rest.post("half_plus_two_cpu:predict", {"instances": [number, number + 1]})[1][
            "predictions"
        ]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(got, range(200))) == list(map(wanted, range(200)))


def test_random_values_of_a_thousand_requests_are_those_of_the_model(served: Served) -> None:
    random = np.random.default_rng(7)
    tf = tensorflow()
    names = {"float32": DataType.DT_FLOAT, "float64": DataType.DT_DOUBLE, "int64": DataType.DT_INT64}
    with ThreadPoolExecutor(4) as pool:

        def one(number: int, raw: bytes, shape: tuple[int, ...]) -> None:
            name = list(names)[number % len(names)]
            given = np.frombuffer(raw, element_type(names[name]).array)[: int(np.prod(shape))].reshape(shape)
            expected = served.run("echo", name, x=tf.constant(given))["y"]
            key = "instances" if number % 2 else "inputs"
            status, got = served.rest.post("echo:predict", {"signature_name": name, key: given.tolist()})
            again = np.array(got["predictions" if number % 2 else "outputs"])
            assert status == 200
            np.testing.assert_array_equal(again.astype(expected.dtype).reshape(shape), expected)

        cases = [
            (number, random.bytes(8 * 64), tuple(int(size) for size in random.integers(1, 5, 1 + number % 3)))
            for number in range(1000)
        ]
        for done in [pool.submit(one, *case) for case in cases]:
            done.result(60)


def test_a_request_that_takes_too_long_is_given_up(served: Served) -> None:
    def spin(turns: int) -> tuple[int, Any]:
        return served.rest.post("mixed:predict", {"signature_name": "spin", "instances": [turns]})

    assert served.rest.post("versions:predict", {"instances": [0]}, x_request_timeout_ms="0")[0] == 504
    spin(1)  # what follows pays for no compilation
    start = time.monotonic()
    assert spin(20_000)[0] == 200
    turn = (time.monotonic() - start) / 20_000
    status, answer = spin(int(2.5 * TIMEOUT_MS / 1e3 / turn))
    assert status == 504 and "error" in answer
