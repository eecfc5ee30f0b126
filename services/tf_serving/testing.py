"""For tests: small SavedModels, built once per session, official requests, and a real server process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from services.tf_serving.execution.runtime import tensorflow

ECHO_DTYPES = (
    *("float32", "float64", "half", "bfloat16", "complex64", "complex128", "bool", "string"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("qint8", "quint8", "qint16", "quint16", "qint32"),
)
"""Dtypes of the echo model's signatures; each answers its input x as y."""


def save_half_plus_two(path: Path) -> None:
    """x float (-1, 1) to y float (-1, 1)."""
    tensorflow()  # quietly, before the example imports it
    from examples.tensorflow.half_plus_two import half_plus_two

    half_plus_two.save(str(path))


def save_echo(path: Path) -> None:
    """One signature per dtype, called as the dtype: x of any shape to y, the same."""
    tf = tensorflow()

    class Echo(tf.Module):  # type: ignore[misc, name-defined]
        pass

    signatures = {}
    for name in ECHO_DTYPES:
        function = tf.function(
            lambda x: {"y": tf.identity(x)},
            input_signature=[tf.TensorSpec(None, getattr(tf, name), name="x")],
        )
        signatures[name] = function.get_concrete_function()
    tf.saved_model.save(Echo(), str(path), signatures=signatures)


def save_intents(path: Path) -> None:
    """Like textcnn, but tiny: sentence string (-1, 4), label string (-1) to output string (-1, 3), score
    float (-1, 3). A cell's column is looked up in a table whose keys come from an asset file."""
    tf = tensorflow()
    asset = path.parent / "intents.txt"
    asset.parent.mkdir(parents=True, exist_ok=True)
    asset.write_text("rent\nsell\nhire\n", encoding="utf-8")

    class Intents(tf.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            keys = tf.lookup.TextFileInitializer(
                str(asset),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )
            self.table = tf.lookup.StaticHashTable(keys, default_value=-1)
            self.names = tf.constant(["rent", "sell", "hire"])
            self.prediction = tf.function(
                self._prediction,
                input_signature=[
                    tf.TensorSpec([None, 4], tf.string, name="sentence"),
                    tf.TensorSpec([None], tf.string, name="label"),
                ],
            )

        def _prediction(self, sentence: Any, label: Any) -> dict[str, Any]:
            counts = tf.reduce_sum(tf.one_hot(self.table.lookup(sentence), 3), axis=1)
            score, index = tf.math.top_k(tf.nn.softmax(counts), k=3)
            return {"output": tf.gather(self.names, index), "score": score}

    model = Intents()
    tf.saved_model.save(model, str(path), signatures={"prediction": model.prediction.get_concrete_function()})
    asset.unlink()  # the SavedModel has its own copy


def save_mixed(path: Path) -> None:
    """Signatures with something odd about each:

    two:    a, b float (-1, 2) to sum, product and again (the same tensor as sum).
    spin:   n int32 (-1) to turns int32 (-1): counts to n one by one, for as long as that takes.
    pick:   i int32 (-1) to v float (-1): v[i] of three; a kernel error for other i.
    centre: x float (-1, 1) to y: minus the mean of all rows, so rows influence each other.
    total:  x float (-1, 1) to y float (): no row per row.
    """
    tf = tensorflow()

    class Mixed(tf.Module):  # type: ignore[misc, name-defined]
        pass

    def two(a: Any, b: Any) -> dict[str, Any]:
        total = a + b
        return {"sum": total, "product": a * b, "again": total}

    def spin(n: Any) -> dict[str, Any]:
        turns = tf.while_loop(
            lambda i: tf.reduce_any(i < n), lambda i: [tf.minimum(i + 1, n)], [tf.zeros_like(n)]
        )
        return {"turns": turns[0]}

    def pick(i: Any) -> dict[str, Any]:
        return {"v": tf.gather(tf.constant([1.0, 2.0, 3.0]), i)}

    def spec(name: str, shape: list[int | None], dtype: Any = tf.float32) -> Any:
        return tf.TensorSpec(shape, dtype, name=name)

    functions = {
        "two": tf.function(two, input_signature=[spec("a", [None, 2]), spec("b", [None, 2])]),
        "spin": tf.function(spin, input_signature=[spec("n", [None], tf.int32)]),
        "pick": tf.function(pick, input_signature=[spec("i", [None], tf.int32)]),
        "centre": tf.function(lambda x: {"y": x - tf.reduce_mean(x)}, input_signature=[spec("x", [None, 1])]),
        "total": tf.function(lambda x: {"y": tf.reduce_sum(x)}, input_signature=[spec("x", [None, 1])]),
    }
    signatures = {name: function.get_concrete_function() for name, function in functions.items()}
    tf.saved_model.save(Mixed(), str(path), signatures=signatures)


def save_version_1(path: Path) -> None:
    """As TensorFlow 1 exported: a variable, a table filled by the main op, placeholders of unknown shape.
    x float, key string (default b"two") to y = a * x + table[key], and to given, which is x itself."""
    tf = tensorflow()
    v1 = tf.compat.v1
    utils = v1.saved_model.utils.build_tensor_info
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, name="x")
        key = v1.placeholder(tf.string, name="key")
        a = v1.get_variable("a", initializer=0.5, use_resource=False)
        rows = tf.lookup.KeyValueTensorInitializer(["two", "three"], [2.0, 3.0])
        y = a * x + tf.lookup.StaticHashTable(rows, default_value=0.0).lookup(key)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        signature = v1.saved_model.build_signature_def(
            {"x": utils(x), "key": utils(key)},
            {"y": utils(y), "given": utils(x)},
            "tensorflow/serving/predict",
        )
        signature.defaults["key"].CopyFrom(tf.make_tensor_proto(b"two"))
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, main_op=v1.tables_initializer()
        )
        builder.save()


def save_constant(path: Path, value: float, *, ballast_bytes: int = 4) -> None:
    """x float (-1) to y float (-1), the value whatever x is: a version that says which it is. It has a variable of
    so many bytes more.

    The folder appears at once, as an export should have it.
    """
    tf = tensorflow()

    class Constant(tf.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.value = tf.Variable(float(value))
            self.ballast = tf.Variable(tf.zeros([ballast_bytes // 4]))
            self.answer = tf.function(
                lambda x: {"y": tf.zeros_like(x) + self.value + self.ballast[0]},
                input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
            )

    model = Constant()
    partial = path.with_name(f"tmp-{path.name}")
    tf.saved_model.save(model, str(partial), signatures=model.answer.get_concrete_function())
    partial.rename(path)


MAKERS = {
    "half_plus_two": save_half_plus_two,
    "echo": save_echo,
    "intents": save_intents,
    "mixed": save_mixed,
    "version_1": save_version_1,
}


def predict_request(
    name: str, inputs: dict[str, Any], *, signature: str = "", outputs: tuple[str, ...] = ()
) -> Any:
    """An official PredictRequest; inputs are numpy arrays, TensorProtos, or what tf.make_tensor_proto
    takes."""
    tf = tensorflow()
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    request = PredictRequest(output_filter=outputs)
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for key, value in inputs.items():
        # make_tensor_proto takes numpy arrays, numbers, strings, lists, and TensorProtos as they are.
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


class Server:
    """A real `tf-serving serve` process on a free port; a context manager.

    Raises:
        RuntimeError: it ended, or was not ready after `START_S`; with what it wrote.
    """

    START_S = 90.0
    STOP_S = 30.0

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "services.tf_serving", "serve", "--port", "0", *arguments]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"}
        self.stderr = tempfile.TemporaryFile()  # - lives as long as the process
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.stderr, env=env)
        try:
            self.address = self._ready()
        except BaseException:
            self.stop()
            raise

    def _ready(self) -> str:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], self.START_S)
        line = self.process.stdout.readline().decode() if readable else ""
        if not line.startswith("READY "):
            raise RuntimeError(f"not ready: {line!r}\n{self.log()}")
        return line.split()[1]

    def log(self) -> str:
        """What it has written to standard error so far."""
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(self.STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self.stderr.close()
