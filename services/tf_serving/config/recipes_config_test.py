"""Models made by the official recipes: configured, warmed up, checked, and answering what they are warmed up by."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from services.tf_serving.__main__ import main
from services.tf_serving.config import example_features, tfrecord
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import warmup
from services.tf_serving.testing_recipes import RECIPES


@pytest.fixture(scope="module")
def folder(recipe: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/ with every recipe, as its name, and out/ with what was written for them, all requests tried."""
    base = tmp_path_factory.mktemp("recipes")
    for name in RECIPES:
        shutil.copytree(recipe(name), base / "models" / name / "7")
    assert (
        main(["config", "--models", str(base / "models"), "--out", str(base / "out"), "--try-warm-up"]) == 0
    )
    return base


def requests(folder: Path, name: str) -> Counter[tuple[str, str]]:
    """How many requests of each kind there are for each signature."""
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    found: Counter[tuple[str, str]] = Counter()
    for record in warmup.read(folder / "models" / name / "7" / warmup.FILE):
        log = PredictionLog.FromString(record)
        kind = log.WhichOneof("log_type")
        found[kind, getattr(log, kind).request.model_spec.signature_name] += 1
    return found


def test_estimators_are_warmed_up_by_examples_of_their_own_features(folder: Path) -> None:
    assert requests(folder, "half_plus_two_cpu") == {
        ("classify_log", "classify_x_to_y"): 2,
        ("predict_log", "regress_x2_to_y3"): 2,
        ("predict_log", "serving_default"): 2,
        ("regress_log", "regress_x_to_y"): 2,
        ("regress_log", "regress_x_to_y2"): 2,
    }
    # TensorFlow 2 says predict of every signature.
    assert requests(folder, "half_plus_two_tf2") == {
        ("predict_log", name): 2
        for name in ("classify_x_to_y", "regress_x_to_y", "regress_x_to_y2", "serving_default")
    }
    estimator = requests(folder, "intents_estimator")
    assert estimator["classify_log", "serving_default"] == 2 and estimator["regress_log", "regression"] == 2
    assert estimator["predict_log", "predict"] == 2


def test_the_example_has_every_feature_of_a_fixed_shape(folder: Path, recipe: Callable[[str], Path]) -> None:
    tf = tensorflow()
    for name in ("half_plus_two_cpu", "half_plus_two_pbtxt", "half_plus_two_tf2"):
        serialized = example_features.read(folder / "models" / name / "7")
        assert serialized is not None
        features = tf.train.Example.FromString(serialized).features.feature
        assert {key: list(value.float_list.value) for key, value in features.items()} == {"x": [0], "x2": [0]}
    assert example_features.read(folder / "models" / "ragged" / "7") is None
    assert example_features.read(folder / "nowhere") is None


def test_every_request_is_right_and_is_answered(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--models-config", str(folder / "out" / "models.config")]
    files += ["--batching-config", str(folder / "out" / "batching.config"), "--per-model-batching"]
    assert main(["check", *files, "--play"]) == 0
    assert "ragged: " in capsys.readouterr().out


def test_what_was_tried_is_kept_without_being_tried_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob(warmup.FILE.name)}
    assert len(before) > 5 and all(tfrecord.decode(content) for content in before.values())
    command = ["config", "--models", str(folder / "models"), "--out", str(folder / "out")]
    assert main([*command, "--dry-run"]) == 0
    assert "\n0 of " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob(warmup.FILE.name)} == before
