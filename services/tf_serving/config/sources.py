"""What a SavedModel can be made of: a Keras file, another SavedModel, or a checkpoint with the function that builds its
model. Each becomes a SavedModel in a folder that is not there yet."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model.versions import GRAPH_FILES, ModelError

KERAS_FILES = (".keras", ".h5", ".hdf5")

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""TensorFlow's key of what a checkpoint says about itself."""


def write(source: Path, target: Path, *, allow_code: bool = False) -> None:
    """A Keras file or a SavedModel as the SavedModel `target`. Raises ModelError.

    Args:
        allow_code: whether Python code in the Keras file (lambda layers) may run.
    """
    if source.is_dir() and any((source / name).exists() for name in GRAPH_FILES):
        shutil.copytree(source, target)
    elif source.suffix in KERAS_FILES and source.is_file():
        _write_keras(_load_keras(source, allow_code), target)
    elif not source.exists():
        raise ModelError(f"there is no {source}")
    else:
        raise ModelError(
            f"{source} is no model: expected a {', '.join(KERAS_FILES)} file or a SavedModel's folder; "
            "for a checkpoint --checkpoint and --model"
        )


def write_checkpoint(checkpoint: Path, function: str, target: Path) -> None:
    """The model that `function`, `module:name`, builds, with a checkpoint's values, as the SavedModel `target`.

    The function takes nothing and gives a tf.Module or a Keras model that is built, or a pair of it and its
    signatures. Raises ModelError.
    """
    tf = tensorflow()
    built = call(function)
    model, signatures = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(model, tf.Module) and not _is_keras(model):
        raise ModelError(f"{function} gave {type(model).__name__}: expected a tf.Module or a Keras model")
    if not model.variables:
        raise ModelError(f"{function} gave a model without variables: it must be built before values fit in")
    _restore(tf, model, checkpoint)
    if _is_keras(model) and signatures is None:
        _write_keras(model, target)
        return
    try:
        tf.saved_model.save(model, str(target), signatures=signatures)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{function}: cannot be saved: {error}") from error


def call(function: str) -> Any:
    """What the function `module:name` gives; modules are found from the working folder on. Raises ModelError."""
    module_name, colon, name = function.partition(":")
    if not colon or not name:
        raise ModelError(f"{function!r} is no function: expected module:function")
    found = getattr(load_module(module_name), name, None)
    if not callable(found):
        raise ModelError(f"module {module_name} has no function {name}")
    try:
        return found()
    except Exception as error:
        raise ModelError(f"{function} failed: {type(error).__name__}: {error}") from error


def load_module(name: str) -> Any:
    """The module of that name, found from the working folder on. Raises ModelError."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    tensorflow()  # quietly, before the module imports it
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ModelError(f"cannot import {name}: {type(error).__name__}: {error}") from error


def _is_keras(model: Any) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def _load_keras(source: Path, allow_code: bool) -> Any:
    keras = tensorflow().keras
    try:
        return keras.models.load_model(source, compile=False, safe_mode=not allow_code)
    except Exception as error:  # whatever the file's parts raise
        hint = ""
        if not allow_code and "safe_mode" in str(error):
            hint = "; --allow-code loads it, if you trust who made it"
        elif "registered" in str(error) or "custom" in str(error):
            hint = "; --import MODULE loads the module that registers its classes"
        raise ModelError(f"cannot load {source}: {_first_line(error)}{hint}") from error


def _write_keras(model: Any, target: Path) -> None:
    try:
        model.export(str(target), format="tf_saved_model", verbose=False)
    except Exception as error:
        raise ModelError(f"Keras cannot export it: {_first_line(error)}") from error


def _restore(tf: Any, model: Any, checkpoint: Path) -> None:
    """Give the model the checkpoint's values: all of the model's, whatever else there is. Raises ModelError."""
    if checkpoint.name.endswith(".weights.h5"):
        try:
            model.load_weights(checkpoint)
        except Exception as error:
            raise ModelError(f"{checkpoint} does not fit the model: {_first_line(error)}") from error
        return
    prefix = tf.train.latest_checkpoint(str(checkpoint)) if checkpoint.is_dir() else str(checkpoint)
    if prefix is None or not Path(f"{prefix}.index").exists():
        raise ModelError(
            f"there is no checkpoint {checkpoint}: expected a folder with one, or the name before .index"
        )
    reason: Exception | None = None
    for place in _places(tf, prefix):
        holder = tf.train.Checkpoint(**{place: model}) if place else tf.train.Checkpoint(model)
        try:
            holder.read(prefix).assert_existing_objects_matched().expect_partial()
            return
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            reason = reason or error
    why = _first_line(reason) if reason else "it holds nothing"
    raise ModelError(f"{checkpoint} does not fit the model: {why}")


def _places(tf: Any, prefix: str) -> Iterator[str]:
    """Where in a checkpoint the model may be: all of it, "", or under a name, as Checkpoint(model=...) puts it."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    reader = tf.train.load_checkpoint(prefix)
    if not reader.has_tensor(_OBJECT_GRAPH):
        raise ModelError(
            f"{prefix} is a checkpoint of TensorFlow 1, by names: expected one of tf.train.Checkpoint"
        )
    graph = TrackableObjectGraph.FromString(reader.get_tensor(_OBJECT_GRAPH))
    yield ""
    names = sorted({child.local_name for child in graph.nodes[0].children} - {"save_counter"})
    yield from sorted(names, key=lambda name: name not in ("model", "net", "module"))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
