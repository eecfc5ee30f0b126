"""Libraries of custom operators, which models that use them need before they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model.versions import ModelError


def check(paths: Sequence[str]) -> None:
    """Whether the files are there; without TensorFlow, so it is told at once.

    Raises:
        ModelError: one is not. Says which.
    """
    for path in paths:
        if not Path(path).is_file():
            why = "it is no file" if Path(path).exists() else "there is no such file"
            raise ModelError(f"cannot load the library of operators {path}: {why}")


def load(paths: Sequence[str]) -> None:
    """Load each: its operators and kernels are known to the whole process from then on, for good.

    Raises:
        ModelError: one is not there, is no library, or needs symbols that this TensorFlow does not have.
            Says which and why.
    """
    check(paths)
    if not paths:
        return
    tf = tensorflow()
    for path in paths:
        try:
            tf.load_op_library(path)
        except (tf.errors.OpError, RuntimeError, OSError) as error:
            reason = " ".join(str(getattr(error, "message", "") or error).split())
            raise ModelError(f"cannot load the library of operators {path}: {reason}") from error
