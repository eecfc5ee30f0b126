"""Answers of Classify and Regress as serialized messages, written directly: a message object per class costs
more than the model run that found it.

Field numbers are those of tensorflow_serving/apis/{classification,regression}.proto:
ClassificationResult.classifications 1; Classifications.classes 1; Class.label 1, .score 2;
RegressionResult.regressions 1; Regression.value 1. A number of proto3 whose bits are all 0 is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from libs.proto.wire import I32, len_field
from services.tf_serving.model.methods import Classified

_SCORE = bytes([2 << 3 | I32])
_VALUE = bytes([1 << 3 | I32])
_ZERO = bytes(4)


def classification_result(answer: Classified) -> bytes:
    """A serialized ClassificationResult."""
    rows = answer.classes if answer.classes is not None else answer.scores
    count, width = rows.shape if rows is not None else (0, 0)
    labels = [b""] * (count * width) if answer.classes is None else _labels(answer.classes)
    scores = [b""] * (count * width) if answer.scores is None else _floats(_SCORE, answer.scores)
    classes = [len_field(1, label + score) for label, score in zip(labels, scores, strict=True)]
    return b"".join(len_field(1, b"".join(classes[row * width : (row + 1) * width])) for row in range(count))


def regression_result(values: NDArray[np.float32]) -> bytes:
    """A serialized RegressionResult of values (n,)."""
    return b"".join(len_field(1, value) for value in _floats(_VALUE, values))


def _labels(classes: NDArray[Any]) -> list[bytes]:
    return [len_field(1, label) if label else b"" for label in classes.reshape(-1).tolist()]


def _floats(tag: bytes, values: NDArray[Any]) -> list[bytes]:
    raw = np.ascontiguousarray(values, "<f4").tobytes()
    words = [raw[i : i + 4] for i in range(0, len(raw), 4)]
    return [b"" if word == _ZERO else tag + word for word in words]
