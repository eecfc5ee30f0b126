"""y = x / 2 + 2: the model that TensorFlow Serving's own documentation and tests serve."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class HalfPlusTwo(tf.Module):  # type: ignore[misc]
    """Two variables, so that loading a SavedModel with weights is exercised."""

    def __init__(self) -> None:
        super().__init__()
        self.a = tf.Variable(0.5, name="a")
        self.b = tf.Variable(2.0, name="b")
        self.predict = tf.function(
            self._predict, input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")]
        )

    def _predict(self, x: Any) -> dict[str, Any]:
        """x float32 (n, 1) to y float32 (n, 1)."""
        return {"y": self.a * x + self.b}


def save(path: str) -> None:
    """Write the SavedModel with the one signature ``serving_default``."""
    model = HalfPlusTwo()
    tf.saved_model.save(model, path, signatures={"serving_default": model.predict.get_concrete_function()})
