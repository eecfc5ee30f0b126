"""Models made by the official recipes, loaded and run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from services.tf_serving.execution.batch_rules import BatchRules
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model.methods import CLASSIFY, PREDICT, REGRESS
from services.tf_serving.testing_recipes import example

METHODS = {
    "serving_default": PREDICT,
    "regress_x_to_y": REGRESS,
    "regress_x_to_y2": REGRESS,
    "regress_x2_to_y3": REGRESS,
    "classify_x_to_y": CLASSIFY,
}


def load(path: Path) -> Engine:
    return Engine.load(path, Threads(1))


@pytest.mark.parametrize(
    "name",
    [*(f"half_plus_two_{kind}" for kind in ("cpu", "mkl", "pbtxt", "init_op", "tf2")), "half_plus_three"],
)
def test_half_plus_two_in_every_form_answers_tensors_and_examples(
    recipe: Callable[[str], Path], name: str
) -> None:
    engine = load(recipe(name))
    plus = 3.0 if name == "half_plus_three" else 2.0
    (y,) = engine.runner("serving_default", ("y",))([np.array([[1], [5]], "f4")])
    assert y.tolist() == [[0.5 + plus], [2.5 + plus]]
    given = np.array([example(x=4.0).SerializeToString()], object)
    (y,) = engine.runner("regress_x_to_y", ("outputs",))([given])
    assert y.tolist() == [[2.0 + plus]]
    if name.endswith("tf2"):
        assert {engine.signatures[key].method_name for key in METHODS if key in engine.signatures} == {
            PREDICT
        }
        return
    assert {key: found.method_name for key, found in engine.signatures.items()} == METHODS
    (y,) = engine.runner("regress_x2_to_y3", ("outputs",))([np.array([[4]], "f4")])
    assert y.tolist() == [[5.0]]
    assert (recipe(name) / "assets" / "foo.txt").read_text() == "asset-file-contents"
    assert (recipe(name) / "saved_model.pbtxt").exists() == (name == "half_plus_two_pbtxt")


def test_several_signatures_run_as_one(recipe: Callable[[str], Path]) -> None:
    for name in ("half_plus_two_cpu", "half_plus_two_tf2"):
        engine = load(recipe(name))
        parts = (("regress_x_to_y2", ("outputs",)), ("classify_x_to_y", ("scores",)))
        given = np.array([example(x=4.0).SerializeToString()] * 2, object)
        y2, y = engine.joint_runner(parts)([given])
        assert (y2.tolist(), y.tolist()) == ([[5.0], [5.0]], [[4.0], [4.0]])


def test_an_estimators_vocabulary_comes_from_its_assets(recipe: Callable[[str], Path]) -> None:
    path = recipe("intents_estimator")
    assert (path / "assets" / "vocabulary.txt").read_text().split()[0] == "buy"
    engine = load(path)
    given = np.array([example(words=[b"car", b"unheard of"]).SerializeToString()], object)
    (classes,) = engine.runner("predict", ("classes",))([given])
    assert classes.tolist() == [b"vehicle"]


def test_sentences_of_any_length_are_served_and_may_share_a_run_filled_up(
    recipe: Callable[[str], Path],
) -> None:
    tensorflow()
    engine = load(recipe("ragged"))
    run = engine.runner("serving_default", ("joined", "letters"))
    short, long = np.array([[b"to", b"be"]], object), np.array([[b"or", b"not", "好".encode()]], object)
    for words, joined, letters in ((short, b"to be", 4), (long, "or not 好".encode(), 8)):
        answer = run([words])
        assert (answer[0].tolist(), answer[1].tolist()) == ([joined], [letters])
    merged = BatchRules(pad_ragged=True).merge([[short], [long]])
    answer = run(merged)
    assert answer[0].tolist() == [b"to be to", "or not 好".encode()]


def test_an_untrained_textcnn_ranks_its_intents(recipe: Callable[[str], Path]) -> None:
    engine = load(recipe("textcnn"))
    signature = engine.signatures["prediction"]
    arrays = {
        "sentence": np.full((2, 72), b"<pad>", object),
        "label": np.array([b"__label__unknown"] * 2, object),
    }
    output, score = engine.runner("prediction", ("output", "score"))(
        [arrays[name] for name in signature.inputs]
    )
    assert output.shape == score.shape == (2, 3)
    assert (np.diff(score) <= 0).all() and output[0].tolist() == output[1].tolist()
