"""TensorFlow, imported once and quietly. Every module of this service gets it from here, untyped.

Importing takes seconds and hundreds of megabytes, so it happens on first use and not when a module is
imported: `--help` and a mistyped path answer at once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

_NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|"
    rb"[IWE]\d{4} .*(port\.cc|cpu_feature_guard\.cc|cudart_stub\.cc|cuda_platform\.cc|cuda_executor\.cc|"
    rb"cuda_diagnostics\.cc|computation_placer\.cc|gpu_device\.cc)|"
    rb"To enable the following instructions:"
)
"""What TensorFlow's native side says at start-up on any machine without CUDA, whatever the log level."""


@contextlib.contextmanager
def without_startup_noise() -> Iterator[None]:
    """Hold back the process's stderr (file descriptor 2) and pass on all but the known start-up lines after.

    Those lines are written before TF_CPP_MIN_LOG_LEVEL is honoured: the variable cannot stop them.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        try:
            os.dup2(held.fileno(), 2)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            told = b"".join(line for line in held if not _NOISE.match(line))
            while told:
                told = told[os.write(2, told) :]


def skip_keras() -> None:
    """Keep `import tensorflow` from importing Keras, which running a graph does not need: it costs
    most of a second, and its optree complains at exit of the interpreter that pyvoy has taken down by then.

    For a process that serves; call it before tensorflow().
    """
    if "tensorflow" not in sys.modules:
        sys.modules.setdefault("keras", None)  # type: ignore[arg-type]  # None: not to be had


@functools.cache
def tensorflow() -> Any:
    """The tensorflow module, silenced down to errors unless TF_CPP_MIN_LOG_LEVEL is set."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with without_startup_noise():
        import tensorflow as tf

        tf.config.list_physical_devices()  # probes for CUDA, noisily, the first time a device is wanted
    tf.get_logger().setLevel("ERROR")
    return tf
