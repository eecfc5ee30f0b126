from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.tensorflow import make
from examples.tensorflow.textcnn import utterances
from examples.tensorflow.textcnn.tokens import UNKNOWN_LABEL, tokens
from services.tf_serving.execution.runtime import tensorflow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    assert make.main(["--out", str(out)]) == 0
    return out


def test_half_plus_two_answers(models: Path) -> None:
    tf = tensorflow()
    signature = tf.saved_model.load(str(models / "half_plus_two" / "1")).signatures["serving_default"]
    assert signature(x=tf.constant([[1.0], [2.0], [5.0]]))["y"].numpy().tolist() == [[2.5], [3.0], [4.5]]


def test_textcnn_keeps_its_signature_and_generalises(models: Path) -> None:
    tf = tensorflow()
    loaded = tf.saved_model.load(str(models / "textcnn" / "1"))
    assert set(loaded.signatures) == {"prediction", "serving_default"}
    signature = loaded.signatures["prediction"]
    _, held_out = utterances.split(utterances.read())

    answer = signature(
        sentence=tf.constant([tokens(row.text) for row in held_out]),
        label=tf.constant([UNKNOWN_LABEL] * len(held_out)),
    )

    output, score = answer["output"].numpy(), answer["score"].numpy()
    assert output.shape == score.shape == (len(held_out), 3)
    assert (
        score.dtype == np.float32
        and (np.diff(score, axis=1) <= 0).all()
        and (score.sum(axis=1) < 1.001).all()
    )
    right = np.mean([best.decode() == row.intent for best, row in zip(output[:, 0], held_out, strict=True)])
    assert right > 0.85


def test_textcnn_takes_the_cells_of_callers_who_neither_lower_case_nor_mark_spaces(models: Path) -> None:
    tf = tensorflow()
    signature = tf.saved_model.load(str(models / "textcnn" / "1")).signatures["prediction"]
    plain = [*"How Much Is It", "<eos>", *["<pad>"] * 57]
    label = tf.constant([UNKNOWN_LABEL])

    answers: list[Any] = [
        signature(sentence=tf.constant([cells]), label=label)["score"].numpy()
        for cells in (plain, tokens("How Much Is It"))
    ]

    np.testing.assert_array_equal(*answers)


def test_what_exists_is_kept_unless_forced(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = models / "half_plus_two" / "1" / "saved_model.pb"
    before = graph.stat().st_ino
    assert make.main(["--out", str(models), "--only", "half_plus_two"]) == 0
    assert graph.stat().st_ino == before
    assert "exists already" in capsys.readouterr().out
    assert make.main(["--out", str(models), "--only", "half_plus_two", "--force"]) == 0
    assert graph.stat().st_ino != before
    assert [path.name for path in graph.parent.parent.iterdir()] == ["1"]


def test_a_failed_maker_leaves_the_old_version_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "m" / "1"

    def makes(path: str) -> str:
        Path(path).mkdir()
        return path

    make.place(makes, target)
    (target / "old").touch()

    def fails(path: str) -> str:
        Path(path).mkdir()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        make.place(fails, target)
    assert (target / "old").exists()
    assert list(target.parent.iterdir()) == [target]
