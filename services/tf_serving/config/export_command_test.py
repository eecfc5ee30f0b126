from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.tf_serving.__main__ import main
from services.tf_serving.config import tfrecord, trial
from services.tf_serving.config.inspection import inspect
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import warmup
from services.tf_serving.model.saved_model import read

FUNCTIONS = """
import tensorflow as tf

class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.a = tf.Variable(1.0)
        self.b = tf.Variable([0.0, 0.0])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": self.a * x + self.b[1]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="t")])
    def other(self, t):
        return {"n": tf.strings.to_number(t)}

def build():
    net = Net()
    return net, {"serving_default": net.serve, "other": net.other}

def dense():
    return tf.keras.Sequential([tf.keras.Input((2,), name="x"), tf.keras.layers.Dense(1, name="dense")])

def unbuilt():
    return tf.keras.Sequential([tf.keras.layers.Dense(1)])

def plain():
    module = tf.Module()
    module.v = tf.Variable(1.0)
    return module

def number():
    return 3

def failing():
    raise KeyError("weights")
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module of FUNCTIONS, which can be imported as exported_nets; its folder is `folder`."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "exported_nets.py").write_text(FUNCTIONS)
    sys.path.insert(0, str(folder))
    tensorflow()
    import importlib

    module: Any = importlib.import_module("exported_nets")
    module.folder = folder
    yield module
    sys.path.remove(str(folder))
    del sys.modules["exported_nets"]


def export(out: Path, *more: str, name: str = "m") -> int:
    return main(["export", "--out", str(out), "--name", name, *more])


def answer(path: Path, x: Any, signature: str = "serving_default") -> Any:
    engine = Engine.load(path, Threads(1))
    try:
        outputs = tuple(engine.signatures[signature].outputs)
        return engine.runner(signature, outputs)([np.array(x, "f4")])[0].tolist()
    finally:
        engine.close()


def only_versions(base: Path) -> list[str]:
    return sorted(entry.name for entry in base.iterdir())


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_keras_file_becomes_the_next_version(nets: Any, tmp_path: Path, suffix: str) -> None:
    model = nets.dense()
    file = tmp_path / f"dense{suffix}"
    model.save(file)
    (tmp_path / "out" / "m" / "41").mkdir(parents=True)
    assert export(tmp_path / "out", str(file), "--batch-sizes=4,1") == 0
    base = tmp_path / "out" / "m"
    assert only_versions(base) == ["41", "42"]
    want = model(np.array([[1, 2], [3, 4]], "f4")).numpy()
    assert np.allclose(answer(base / "42", [[1, 2], [3, 4]]), want)
    assert (base / "42").stat().st_mode & 0o777 == 0o755
    version = inspect(42, base / "42")
    assert len(warmup.read(base / "42" / warmup.FILE)) == 2 * len(version.signatures)
    assert trial.answered("m", version, warmup.read(base / "42" / warmup.FILE)) == ""


def test_a_saved_model_is_copied_with_its_own_requests(models: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(models / "half_plus_two" / "7", source)
    assert export(tmp_path / "out", str(source), "--version=3") == 0
    base = tmp_path / "out" / "m"
    assert answer(base / "3", [[5]]) == [[4.5]]
    assert len(warmup.read(base / "3" / warmup.FILE)) == 1
    own = tfrecord.encode(warmup.read(base / "3" / warmup.FILE) * 2)
    (base / "3" / warmup.FILE).write_bytes(own)
    assert export(tmp_path / "out", str(base / "3")) == 0
    assert (base / "4" / warmup.FILE).read_bytes() == own
    assert not (source / warmup.FILE).exists()


@pytest.mark.parametrize("kind", ["model", "net", "root", "folder"])
def test_a_checkpoint_with_its_function_becomes_a_version(nets: Any, tmp_path: Path, kind: str) -> None:
    tf = tensorflow()
    net, _ = nets.build()
    net.a.assign(2.0)
    net.b.assign([0.0, 0.5])
    holder = {
        "model": lambda: tf.train.Checkpoint(model=net, step=tf.Variable(7)),
        "net": lambda: tf.train.Checkpoint(optimizer=tf.Variable(1.0), net=net),
        "root": lambda: tf.train.Checkpoint(net),
        "folder": lambda: tf.train.Checkpoint(model=net),
    }[kind]()
    prefix = holder.save(str(tmp_path / "ckpt" / "c"))
    checkpoint = str(tmp_path / "ckpt") if kind == "folder" else prefix
    assert export(tmp_path / "out", f"--checkpoint={checkpoint}", "--model=exported_nets:build") == 0
    assert answer(tmp_path / "out" / "m" / "1", [3]) == [6.5]


def test_a_keras_checkpoint_and_keras_weights_become_versions(nets: Any, tmp_path: Path) -> None:
    tf = tensorflow()
    model = nets.dense()
    prefix = tf.train.Checkpoint(model=model).save(str(tmp_path / "c"))
    model.save_weights(tmp_path / "c.weights.h5")
    want = model(np.array([[1, 2]], "f4")).numpy()
    for checkpoint in (prefix, str(tmp_path / "c.weights.h5")):
        assert export(tmp_path / "out", f"--checkpoint={checkpoint}", "--model=exported_nets:dense") == 0
    for version in ("1", "2"):
        assert np.allclose(answer(tmp_path / "out" / "m" / version, [[1, 2]]), want)


def test_a_sample_warms_up_and_is_answered_first(
    nets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    tf = tensorflow()
    net, signatures = nets.build()
    tf.saved_model.save(net, str(tmp_path / "saved"), signatures=signatures)
    sample = tmp_path / "sample.json"
    sample.write_text(json.dumps({"t": ["1.5", "2"]}))
    arguments = (str(tmp_path / "saved"), f"--sample={sample}", "--batch-sizes=1,4")
    assert export(tmp_path / "out", *arguments, name="m-7") == 0
    assert "3 warm-up requests" in capsys.readouterr().out
    records = warmup.read(tmp_path / "out" / "m-7" / "1" / warmup.FILE)
    requests = [PredictionLog.FromString(record).predict_log.request for record in records]
    assert [request.model_spec.signature_name for request in requests] == ["other"] * 3
    assert [tf.make_ndarray(request.inputs["t"]).shape for request in requests] == [(2,), (1,), (4,)]
    sample.write_text(json.dumps({"t": ["no number"]}))
    assert export(tmp_path / "out", *arguments, name="m-7") == 1
    assert f"{sample}: recorded request 1 cannot be answered" in capsys.readouterr().err
    assert only_versions(tmp_path / "out" / "m-7") == ["1"]
    assert export(tmp_path / "out", str(tmp_path / "saved"), name="m-7") == 0
    assert "no warm-up request for other: it refuses zeros" in capsys.readouterr().err


def test_who_looks_meanwhile_sees_a_version_whole_or_not_at_all(models: Path, tmp_path: Path) -> None:
    base = tmp_path / "out" / "m"
    source = str(models / "half_plus_two" / "7")
    assert export(tmp_path / "out", source) == 0
    torn: list[str] = []
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for entry in base.iterdir():
                if entry.name.isdigit() and entry.name not in seen:
                    whole = (entry / "saved_model.pb").exists() and (entry / warmup.FILE).exists()
                    if not whole or inspect(1, entry).problem:
                        torn.append(entry.name)
                    seen.add(entry.name)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        exporters = [threading.Thread(target=export, args=(tmp_path / "out", source)) for _ in range(6)]
        for exporter in exporters:
            exporter.start()
        for exporter in exporters:
            exporter.join(60)
            assert not exporter.is_alive()
    finally:
        stop.set()
        looker.join(30)
    assert only_versions(base) == ["1", "2", "3", "4", "5", "6", "7"]
    assert torn == [] and seen


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{}/nowhere.keras"], "there is no "),
        (["{}/bad.keras"], "cannot load "),
        (["{}/folder"], "is no model: expected a .keras, .h5, .hdf5 file or a SavedModel's folder"),
        (["{}/torn"], "saved_model.pb is corrupt"),
        (["--checkpoint={}/none", "--model=exported_nets:build"], "there is no checkpoint"),
        (["--checkpoint={}/c-1", "--model=exported_nets:dense"], "does not fit the model"),
        (["--checkpoint={}/c-1", "--model=exported_nets:unbuilt"], "a model without variables"),
        (["--checkpoint={}/c-1", "--model=exported_nets:number"], "gave int: expected a tf.Module"),
        (["--checkpoint={}/c-1", "--model=exported_nets:failing"], "failed: KeyError: 'weights'"),
        (["--checkpoint={}/c-1", "--model=exported_nets:nothing"], "has no function nothing"),
        (["--checkpoint={}/c-1", "--model=exported_nets"], "is no function: expected module:function"),
        (["--checkpoint={}/c-1", "--model=no_such_module:f"], "cannot import no_such_module"),
        (["--checkpoint={}/v-1", "--model=exported_nets:plain"], "has no signature that can be called"),
        (["--checkpoint={}/old", "--model=exported_nets:plain"], "a checkpoint of TensorFlow 1"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(
    nets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    tf = tensorflow()
    (tmp_path / "bad.keras").write_bytes(b"PK")
    (tmp_path / "folder").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "saved_model.pb").write_bytes(b"\xff")
    tf.train.Checkpoint(model=nets.build()[0]).save(str(tmp_path / "c"))
    tf.train.Checkpoint(model=nets.plain()).save(str(tmp_path / "v"))
    if "{}/old" in arguments[0]:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            variable = tf.compat.v1.get_variable("v", initializer=1.0)
            session.run(variable.initializer)
            tf.compat.v1.train.Saver().save(session, str(tmp_path / "old"))
    given = [argument.format(tmp_path) for argument in arguments]
    assert export(tmp_path / "out", *given) == 1
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out" / "m").exists()


def test_code_in_a_keras_file_runs_only_when_it_may(
    nets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keras = tensorflow().keras
    file = tmp_path / "code.keras"
    layers = [keras.Input((1,)), keras.layers.Lambda(lambda x: x * 3)]
    keras.Sequential(layers).save(file)
    assert export(tmp_path / "out", str(file)) == 1
    assert "--allow-code loads it, if you trust who made it" in capsys.readouterr().err
    assert export(tmp_path / "out", str(file), "--allow-code") == 0
    assert answer(tmp_path / "out" / "m" / "1", [[2]]) == [[6]]


def test_a_version_never_changes(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(models / "half_plus_two" / "7")
    assert export(tmp_path / "out", source, "--version=5") == 0
    graph = (tmp_path / "out" / "m" / "5" / "saved_model.pb").stat()
    assert export(tmp_path / "out", source, "--version=5") == 1
    assert "is there already, and a version never changes" in capsys.readouterr().err
    assert (tmp_path / "out" / "m" / "5" / "saved_model.pb").stat() == graph
    assert read(tmp_path / "out" / "m" / "5") is not None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "expected either SOURCE or --checkpoint"),
        (["a", "--checkpoint=b", "--model=c:d"], "expected either SOURCE or --checkpoint"),
        (["--checkpoint=b"], "--checkpoint and --model go together"),
        (["a", "--model=c:d"], "--checkpoint and --model go together"),
        (["a", "--batch-sizes=0"], "expected a whole number from 1"),
        (["a", "--version=-1"], "expected a whole number from 0"),
    ],
)
def test_bad_usage_says_what_was_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        export(tmp_path, *arguments)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export(tmp_path, "a", name="../m")
    assert "expected a folder's name" in capsys.readouterr().err
