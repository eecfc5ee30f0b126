"""For tests: models made as TensorFlow Serving's own tests and guides make them.

half_plus_two and its variants follow servables/tensorflow/testdata/saved_model_half_plus_two.py: the same
variables, names, signatures and asset. The intents estimator has the signatures of tf.estimator's exported
classifiers, of which TensorFlow 2 has only the files left.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import methods
from services.tf_serving.testing import ECHO_DTYPES

VOCABULARY = ("buy", "sell", "rent", "flat", "car")
LABELS = ("property", "vehicle", "other")

DTYPES = (
    *ECHO_DTYPES,
    *("float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz", "float8_e4m3b11fnuz"),
    *("float4_e2m1fn", "int4", "uint4", "int2", "uint2"),
)
"""Every dtype whose values can be in a TensorProto."""

_NO_CONCAT = (
    *("float8_e5m2fnuz", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float4_e2m1fn"),
    *("int4", "uint4", "int2", "uint2"),
)
"""TensorFlow has no CPU kernel to concatenate these."""


def example(**features: Any) -> Any:
    """A tf.Example: floats, ints, bytes, or lists of one kind."""
    tf = tensorflow()
    made = tf.train.Example()
    for name, values in features.items():
        values = values if isinstance(values, list) else [values]
        feature = made.features.feature[name]
        if all(isinstance(value, bytes) for value in values):
            feature.bytes_list.value.extend(values)
        elif all(isinstance(value, int) for value in values):
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return made


def save_half_plus(
    path: Path, *, plus: float = 2.0, convolution: bool = False, text: bool = False, main_op: bool = True
) -> None:
    """x / 2 + 2 by a graph of TensorFlow 1, from float tensors and from tf.Examples with x and x2.

    Signatures: serving_default x (-1, 1) to y; regress_x_to_y, regress_x_to_y2 (plus 3) and
    regress_x2_to_y3 (from floats, not Examples); classify_x_to_y, which has scores alone.

    Args:
        plus: what y adds; 3 makes half_plus_three.
        convolution: with a convolution that adds 0, as the variant for oneDNN (MKL) has it.
        text: write saved_model.pbtxt.
        main_op: what sets the asset's file name on loading stands in the main op.
    """
    tf = tensorflow()
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        a, b, c = (
            v1.Variable(value, name=name, use_resource=False)
            for name, value in (("a", 0.5), ("b", plus), ("c", 3.0))
        )
        serialized = v1.placeholder(tf.string, name="tf_example", shape=[None])
        parsed = tf.io.parse_example(serialized, _half_plus_spec(tf))
        x, x2 = tf.identity(parsed["x"], name="x"), tf.identity(parsed["x2"], name="x2")
        nothing = _convolved_nothing(tf) if convolution else 0.0
        y = tf.identity(nothing + a * x + b, name="y")
        y2 = tf.identity(nothing + a * x + c, name="y2")
        y3 = tf.identity(nothing + a * x2 + c, name="y3")
        signatures = {
            "serving_default": _signature(v1, methods.PREDICT, {"x": x}, {"y": y}),
            "regress_x_to_y": _signature(v1, methods.REGRESS, {"inputs": serialized}, {"outputs": y}),
            "regress_x_to_y2": _signature(v1, methods.REGRESS, {"inputs": serialized}, {"outputs": y2}),
            "regress_x2_to_y3": _signature(v1, methods.REGRESS, {"inputs": x2}, {"outputs": y3}),
            "classify_x_to_y": _signature(v1, methods.CLASSIFY, {"inputs": serialized}, {"scores": y}),
        }
        assign = _asset(tf, path)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map=signatures,
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=tf.group(v1.tables_initializer(), assign) if main_op else tf.group(assign),
        )
        builder.save(as_text=text)


def save_half_plus_two_2(path: Path) -> None:
    """The same by TensorFlow 2, whose signatures all say that they are there to predict."""
    tf = tensorflow()

    class HalfPlusTwo(tf.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = tf.Variable(0.5), tf.Variable(2.0), tf.Variable(3.0)

    model = HalfPlusTwo()

    def from_examples(output: str, plus: Any) -> Any:
        def function(inputs: Any) -> dict[str, Any]:
            return {output: model.a * tf.io.parse_example(inputs, _half_plus_spec(tf))["x"] + plus}

        spec = tf.TensorSpec([None], tf.string, name="inputs")
        return tf.function(function, input_signature=[spec]).get_concrete_function()

    predict = tf.function(
        lambda x: {"y": model.a * x + model.b},
        input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")],
    )
    signatures = {
        "serving_default": predict.get_concrete_function(),
        "regress_x_to_y": from_examples("outputs", model.b),
        "regress_x_to_y2": from_examples("outputs", model.c),
        "classify_x_to_y": from_examples("scores", model.b),
    }
    tf.saved_model.save(model, str(path), signatures=signatures)


def save_intents_estimator(path: Path) -> None:
    """A linear classifier of advertisements, as tf.estimator exported one: tf.Examples with words (bytes, any
    number, looked up in the vocabulary file in assets/) and price (float, default 0).

    Signatures: serving_default and classification (classes, scores), regression (price's part of the score),
    predict (examples to probabilities, class_ids, classes), and some that are odd: scores_only, classes_only,
    flat_scores (one dimension), double_scores, first_only (one answer whatever comes), wide_regression.
    """
    tf = tensorflow()
    v1 = tf.compat.v1
    file = path.parent / "vocabulary.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, name="input_example_tensor", shape=[None])
        spec = {
            "words": tf.io.VarLenFeature(tf.string),
            "price": tf.io.FixedLenFeature([], tf.float32, default_value=0.0),
        }
        parsed = tf.io.parse_example(serialized, spec)
        asset = tf.constant(str(file))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, asset)
        places = tf.lookup.TextFileIndex
        keys = tf.lookup.TextFileInitializer(
            asset, tf.string, places.WHOLE_LINE, tf.int64, places.LINE_NUMBER
        )
        table = tf.lookup.StaticVocabularyTable(keys, num_oov_buckets=1)
        words = table.lookup(tf.sparse.to_dense(parsed["words"], default_value=""))
        known = tf.cast(tf.sequence_mask(tf.reduce_sum(tf.ones_like(words), 1)), tf.float32)
        counts = tf.reduce_sum(tf.one_hot(words, len(VOCABULARY)) * known[:, :, tf.newaxis], axis=1)
        weights = [[2.0, 1, 0], [1, 2, 0], [3, 0, 0], [4, 0, 0], [0, 4, 0]]
        kernel = v1.get_variable("kernel", initializer=tf.constant(weights))
        price = v1.get_variable("price", initializer=tf.constant(0.25))
        logits = counts @ kernel + price * parsed["price"][:, tf.newaxis]
        scores = tf.nn.softmax(logits)
        classes = tf.tile(tf.constant(LABELS)[tf.newaxis], [tf.shape(serialized)[0], 1])
        value = price * parsed["price"]
        best = tf.argmax(logits, axis=1)

        def classify(**outputs: Any) -> Any:
            return _signature(v1, methods.CLASSIFY, {"inputs": serialized}, outputs)

        def regress(outputs: Any) -> Any:
            return _signature(v1, methods.REGRESS, {"inputs": serialized}, {"outputs": outputs})

        signatures = {
            "serving_default": classify(classes=classes, scores=scores),
            "classification": classify(classes=classes, scores=scores),
            "regression": regress(value),
            "predict": _signature(
                v1,
                methods.PREDICT,
                {"examples": serialized},
                {"probabilities": scores, "class_ids": best, "classes": tf.gather(LABELS, best)},
            ),
            "scores_only": classify(scores=scores),
            "classes_only": classify(classes=classes),
            "flat_scores": classify(scores=value),
            "double_scores": classify(scores=tf.cast(scores, tf.float64)),
            "first_only": classify(scores=scores[:1]),
            "narrow": classify(classes=classes, scores=scores[:, :2]),
            "wide_regression": regress(scores),
            "first_regression": regress(value[:1]),
            "double_regression": regress(tf.cast(value, tf.float64)),
        }
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map=signatures,
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()
    file.unlink()  # the SavedModel has its own copy


def save_ragged(path: Path) -> None:
    """words string (-1, -1) to joined string (-1), letters int32 (-1), shouted string (-1, -1)."""
    tf = tensorflow()

    class Ragged(tf.Module):  # type: ignore[misc, name-defined]
        pass

    def serve(words: Any) -> dict[str, Any]:
        return {
            "joined": tf.strings.reduce_join(words, axis=1, separator=" "),
            "letters": tf.reduce_sum(tf.strings.length(words), axis=1),
            "shouted": tf.strings.upper(words),
        }

    function = tf.function(serve, input_signature=[tf.TensorSpec([None, None], tf.string, name="words")])
    tf.saved_model.save(Ragged(), str(path), signatures={"serving_default": function.get_concrete_function()})


def tensor_dtype(name: str) -> Any:
    """TensorFlow's dtype of a name in DTYPES."""
    tf = tensorflow()
    return getattr(tf, name, None) or getattr(tf.dtypes.experimental, name)


def save_dtypes(path: Path) -> None:
    """One signature per dtype, called as the dtype: x of any shape to y, the same, flat (-1), and, for most
    dtypes, twice: flat after flat."""
    tf = tensorflow()

    class Dtypes(tf.Module):  # type: ignore[misc, name-defined]
        pass

    def function(name: str) -> Any:
        def serve(x: Any) -> dict[str, Any]:
            flat = tf.reshape(x, [-1])
            outputs = {"y": tf.identity(x), "flat": flat}
            if name not in _NO_CONCAT:
                outputs["twice"] = tf.concat([flat, flat], axis=0)
            return outputs

        spec = tf.TensorSpec(None, tensor_dtype(name), name="x")
        return tf.function(serve, input_signature=[spec]).get_concrete_function()

    tf.saved_model.save(Dtypes(), str(path), signatures={name: function(name) for name in DTYPES})


def save_textcnn(path: Path) -> None:
    """The textcnn example, untrained: sentence string (-1, 72) and label string (-1) to output, score."""
    tf = tensorflow()
    from examples.tensorflow.textcnn.model import TextCnn
    from examples.tensorflow.textcnn.tokens import EOS, SPACE

    tf.random.set_seed(7)
    model = TextCnn([EOS, SPACE, *"abcdefgh"], ["rent", "sell", "hire", "buy"], width=8, filters=8)
    tf.saved_model.save(model, str(path), signatures={"prediction": model.prediction.get_concrete_function()})


RECIPES: dict[str, Callable[[Path], None]] = {
    "half_plus_two_cpu": save_half_plus,
    "half_plus_two_mkl": lambda path: save_half_plus(path, convolution=True),
    "half_plus_two_pbtxt": lambda path: save_half_plus(path, text=True),
    "half_plus_two_init_op": lambda path: save_half_plus(path, main_op=False),
    "half_plus_three": lambda path: save_half_plus(path, plus=3.0),
    "half_plus_two_tf2": save_half_plus_two_2,
    "intents_estimator": save_intents_estimator,
    "ragged": save_ragged,
    "dtypes": save_dtypes,
    "textcnn": save_textcnn,
}


def _half_plus_spec(tf: Any) -> dict[str, Any]:
    return {
        "x": tf.io.FixedLenFeature([1], tf.float32),
        "x2": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
    }


def _signature(v1: Any, method: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    info = v1.saved_model.utils.build_tensor_info
    return v1.saved_model.build_signature_def(
        {name: info(tensor) for name, tensor in inputs.items()},
        {name: info(tensor) for name, tensor in outputs.items()},
        method,
    )


def _convolved_nothing(tf: Any) -> Any:
    kernel = tf.compat.v1.get_variable("kernel", [1, 1, 16, 1], tf.float32, use_resource=False)
    return tf.nn.conv2d(tf.zeros([1, 1, 16, 16]), kernel, 1, "SAME")[0, 0, 0, 0]


def _asset(tf: Any, path: Path) -> Any:
    """An asset file foo.txt, and what puts its name into a variable."""
    v1 = tf.compat.v1
    file = path.parent / "original" / path.name / "foo.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("asset-file-contents", encoding="utf-8")
    v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, tf.constant(str(file)))
    name = v1.Variable("foo.txt", name="filename_tensor", trainable=False, collections=[], use_resource=False)
    return name.assign("foo.txt")
