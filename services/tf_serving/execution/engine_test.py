from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.serving.errors import InvalidArgument
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model.versions import ModelError
from services.tf_serving.testing import ECHO_DTYPES


def load(path: Path, *, inter_op: int = 0) -> Engine:
    return Engine.load(path, Threads(intra_op=1, inter_op=inter_op))


@pytest.fixture(scope="module")
def mixed(models: Path) -> Engine:
    return load(models / "mixed" / "7")


def some(dtype: str, shape: tuple[int, ...]) -> Any:
    """Values of a TensorFlow dtype as a numpy array of the codecs' kind: quantised ones as plain integers."""
    tf = tensorflow()
    random = np.random.default_rng(7)
    if dtype == "string":
        raw = random.integers(0, 256, 30, np.uint8).tobytes()
        return np.array([raw[: i % 9] for i in range(int(np.prod(shape)))], object).reshape(shape)
    numbers = np.asarray(random.integers(-100, 100, shape))
    plain = {"qint8": "i1", "quint8": "u1", "qint16": "i2", "quint16": "u2", "qint32": "i4"}.get(dtype)
    if dtype.startswith("complex"):
        numbers = numbers + 1j * (numbers + 1) / 3
    return numbers.astype(plain or getattr(tf, dtype).as_numpy_dtype)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_every_dtype_and_shape_comes_back_as_tensorflow_itself_gives_it(
    models: Path, shape: tuple[int, ...]
) -> None:
    tf = tensorflow()
    path = models / "echo" / "7"
    engine = load(path)
    reference = tf.saved_model.load(str(path)).signatures
    for name in ECHO_DTYPES:
        given = some(name, shape)
        (answer,) = engine.runner(name, ("y",))([given])
        dtype = getattr(tf, name)
        fed = given.view(dtype.as_numpy_dtype) if dtype.is_quantized else given
        expected = np.asarray(reference[name](x=tf.constant(fed, dtype, shape=given.shape))["y"].numpy())
        assert answer.shape == expected.shape == shape, name
        assert answer.dtype == given.dtype, name
        assert answer.tolist() == expected.astype(given.dtype).tolist(), name


def test_the_chosen_outputs_come_in_the_order_chosen(mixed: Engine) -> None:
    a, b = np.array([[1, 2]], "f4"), np.array([[3, 5]], "f4")
    assert list(mixed.signatures["two"].inputs) == ["a", "b"]
    results = mixed.runner("two", ("product", "again", "sum"))([a, b])
    assert [result.tolist() for result in results] == [[[3, 10]], [[4, 7]], [[4, 7]]]
    (product,) = mixed.runner("two", ("product",))([a, b])
    assert product.tolist() == [[3, 10]]


def test_a_table_from_an_asset_file_works_wherever_the_model_was_made(models: Path) -> None:
    engine = load(models / "intents" / "7")
    sentence = np.array([[b"sell", b"sell", b"rent", b"<pad>"]], object)
    arrays = {"sentence": sentence, "label": np.array([b"?"], object)}
    output, score = engine.runner("prediction", ("output", "score"))(
        [arrays[name] for name in engine.signatures["prediction"].inputs]
    )
    assert output.tolist() == [[b"sell", b"rent", b"hire"]]
    np.testing.assert_allclose(score, [np.exp([2, 1, 0]) / np.exp([2, 1, 0]).sum()], rtol=1e-6)


def test_kernel_errors_keep_their_status_and_text(mixed: Engine) -> None:
    run = mixed.runner("pick", ("v",))
    with pytest.raises(InvalidArgument, match=r"indices\[0\] = 9 is not in \[0, 3\)"):
        run([np.array([9], "i4")])
    assert run([np.array([2], "i4")])[0].tolist() == [3.0]


@pytest.mark.parametrize("inter_op", [0, 2])
def test_many_threads_may_call_at_a_time(models: Path, inter_op: int) -> None:
    engine = load(models / "half_plus_two" / "7", inter_op=inter_op)
    run = engine.runner("serving_default", ("y",))
    wrong = []

    def work(number: int) -> None:
        x = np.full((3, 1), number, "f4")
        for _ in range(200):
            if (run([x])[0] != number / 2 + 2).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_warm_up_runs_what_can_run_on_zeros(models: Path, mixed: Engine) -> None:
    assert mixed.warm_up() == 5
    assert load(models / "echo" / "7").warm_up() == 0  # unknown ranks


def test_what_cannot_be_loaded_is_told_with_its_path(models: Path, tmp_path: Path) -> None:
    tf = tensorflow()
    tf.io.gfile.mkdir(str(tmp_path / "1"))
    graph = models / "half_plus_two" / "7" / "saved_model.pb"
    (tmp_path / "1" / "saved_model.pb").write_bytes(graph.read_bytes())  # but no variables
    with pytest.raises(ModelError, match=str(tmp_path / "1")):
        load(tmp_path / "1")


def test_the_text_form_of_a_saved_model_is_served_too(models: Path, tmp_path: Path) -> None:
    import shutil

    from google.protobuf import text_format
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = tmp_path / "1"
    shutil.copytree(models / "half_plus_two" / "7", path)
    binary = path / "saved_model.pb"
    text = text_format.MessageToString(SavedModel.FromString(binary.read_bytes()))
    (path / "saved_model.pbtxt").write_text(text, encoding="utf-8")
    binary.unlink()
    engine = load(path)
    assert engine.runner("serving_default", ("y",))([np.ones((1, 1), "f4")])[0].tolist() == [[2.5]]


def test_a_closed_engine_is_gone_without_a_garbage_collection(models: Path) -> None:
    gc.disable()
    try:
        engine = Engine.load(models / "intents" / "7", Threads(1))
        engine.warm_up()
        alive = [weakref.ref(engine._session), weakref.ref(engine._session.graph)]
        engine.close()
        assert [found() for found in alive] == [None, None]
        assert "prediction" in engine.signatures  # by which answers are encoded
    finally:
        gc.enable()
