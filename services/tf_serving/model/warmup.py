"""The warm-up file of a SavedModel: requests that are answered before a version serves.

A TFRecord file of serialized tensorflow.serving.PredictionLog messages, in a place that TensorFlow Serving has fixed.
"""

from __future__ import annotations

from pathlib import Path

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model.versions import ModelError

FILE = Path("assets.extra", "tf_serving_warmup_requests")
"""Where it lies in a version's folder."""


def read(file: Path) -> list[bytes]:
    """The records of the file; none when there is no such file.

    Raises:
        ModelError: it cannot be read, or is no TFRecord file, or is damaged.
    """
    if not file.exists():
        return []
    tf = tensorflow()
    try:
        return list(tf.compat.v1.io.tf_record_iterator(str(file)))
    except tf.errors.OpError as error:
        raise ModelError(f"cannot read {file}: {error.message}") from error
