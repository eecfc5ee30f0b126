from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.proto.dtypes import DataType
from services.tf_serving.config import samples
from services.tf_serving.config.samples import Sample
from services.tf_serving.model.signature import Signature, TensorSpec
from services.tf_serving.model.versions import ModelError

X = TensorSpec("x:0", DataType.DT_FLOAT, (-1, 2))
TEXT = TensorSpec("t:0", DataType.DT_STRING, (-1,))
Y = TensorSpec("y:0", DataType.DT_FLOAT, (-1,))
NUMBERS = Signature("numbers", {"x": X}, {"y": Y})
TEXTS = Signature("texts", {"t": TEXT}, {"y": Y})
BOTH = Signature("both", {"t": TEXT, "x": X}, {"y": Y})
FIXED = Signature("fixed", {"x": TensorSpec("x:0", DataType.DT_INT32, (2,))}, {"y": Y})


def requests(records: list[bytes]) -> list[tuple[str, str, dict[str, Any]]]:
    """Model, signature and inputs of each, as TensorFlow Serving's own classes read them."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    found = [PredictionLog.FromString(record).predict_log.request for record in records]
    return [
        (r.model_spec.name, r.model_spec.signature_name, {n: tf.make_ndarray(t) for n, t in r.inputs.items()})
        for r in found
    ]


def from_json(tmp_path: Path, values: Any) -> Sample:
    (tmp_path / "sample.json").write_text(json.dumps(values))
    return samples.read(tmp_path / "sample.json")


def test_a_json_sample_becomes_requests_of_each_number_of_rows(tmp_path: Path) -> None:
    sample = from_json(tmp_path, {"t": ["é", {"b64": "/wA="}], "x": [[1, 2], [3.5, 4]]})
    made = requests(samples.records("m-7", sample, BOTH, (1, 2, 5)))
    assert [(name, signature) for name, signature, _ in made] == [("m-7", "both")] * 3
    assert made[0][2]["t"].tolist() == ["é".encode(), b"\xff\0"]
    assert [inputs["x"].tolist() for _, _, inputs in made] == [
        [[1, 2], [3.5, 4]],
        [[1, 2]],
        [[1, 2], [3.5, 4], [1, 2], [3.5, 4], [1, 2]],
    ]
    assert all(inputs["x"].dtype == np.float32 for _, _, inputs in made)


def test_an_npz_sample_becomes_requests(tmp_path: Path) -> None:
    file = tmp_path / "sample.npz"
    np.savez(file, t=np.array(["a", "bc"]), x=np.array([[1, 2], [3, 4]], "f8"))
    ((_, _, inputs),) = requests(samples.records("m", samples.read(file), BOTH, (2,)))
    assert inputs["t"].tolist() == [b"a", b"bc"] and inputs["x"].tolist() == [[1, 2], [3, 4]]


def test_rows_that_cannot_share_a_run_go_as_they_are(tmp_path: Path) -> None:
    sample = from_json(tmp_path, {"x": [1, 2]})
    ((_, _, inputs),) = requests(samples.records("m", sample, FIXED, (1, 8)))
    assert inputs["x"].tolist() == [1, 2] and inputs["x"].dtype == np.int32


def test_the_signature_is_the_one_that_is_meant(tmp_path: Path) -> None:
    all_of = {s.name: s for s in (NUMBERS, TEXTS, FIXED)}
    by_name = from_json(tmp_path, {"inputs": {"x": [1, 2]}, "signature_name": "fixed"})
    assert samples.choose(by_name, all_of, "") is FIXED
    assert samples.choose(by_name, all_of, "numbers") is NUMBERS
    assert samples.choose(from_json(tmp_path, {"t": []}), all_of, "") is TEXTS
    assert (
        samples.choose(Sample(tmp_path, {"x": []}), {"serving_default": NUMBERS, "f": FIXED}, "") is NUMBERS
    )
    assert samples.choose(Sample(tmp_path, {"z": []}), {"serving_default": NUMBERS}, "") is NUMBERS
    with pytest.raises(ModelError, match="2 signatures have its inputs, x: say which by --signature"):
        samples.choose(Sample(tmp_path, {"x": []}), all_of, "")
    with pytest.raises(ModelError, match="no signature 'other': it has fixed, numbers, texts"):
        samples.choose(by_name, all_of, "other")


@pytest.mark.parametrize(
    ("signature", "values", "complaint"),
    [
        (NUMBERS, {"x": [[1, 2, 3]]}, r"expected \[\?,2\] but \[1,3\] is given"),
        (NUMBERS, {"x": [["a", "b"]]}, "input x: expected float, got <U1"),
        (FIXED, {"x": [1, 2.5]}, "input x: expected int32, got float64"),
        (FIXED, {"x": [1, 2**40]}, "input x: expected int32"),
        (NUMBERS, {"x": [[1], [2, 3]]}, "input x: expected float: "),
        (NUMBERS, {"y": [[1, 2]]}, "not found in request"),
        (TEXTS, {"t": ["a", 1]}, "input t: expected string: got 1"),
        (TEXTS, {"t": [{"b64": "!"}]}, "input t: expected string: "),
        (TEXTS, {"t": []}, "as many rows, one or more"),
        (BOTH, {"t": ["a"], "x": [[1, 2], [3, 4]]}, "as many rows"),
    ],
)
def test_what_does_not_fit_is_told(
    tmp_path: Path, signature: Signature, values: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ModelError, match=complaint):
        samples.records("m", from_json(tmp_path, values), signature, (1,))


def test_files_that_are_no_samples_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[1]")
    (tmp_path / "c.npz").write_bytes(b"nothing")
    for name, complaint in (
        ("a.json", "is no sample"),
        ("b.json", "expected an object with values by input, got list"),
        ("c.npz", "is no sample"),
        ("d.json", "cannot read"),
        ("e.txt", "expected a sample as .npz or .json"),
    ):
        with pytest.raises(ModelError, match=complaint):
            samples.read(tmp_path / name)
