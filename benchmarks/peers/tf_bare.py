"""A SavedModel without a server: its signature in a loop, on ready tensors, as fast as it goes.

  tf_bare.py FOLDER REQUEST SECONDS    REQUEST: a file with a serialized PredictRequest of one row

For each count of intra-op threads (in a process of its own, since TensorFlow fixes it) and each batch size prints
`THREADS BATCH ROWS_PER_SECOND`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

BATCHES = (1, 8, 32, 128, 512)


def measure(folder: str, file: str, seconds: float, threads: int) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    request = PredictRequest.FromString(Path(file).read_bytes())
    model = tf.saved_model.load(folder)
    run = model.signatures[request.model_spec.signature_name or "serving_default"]
    for batch in BATCHES:
        inputs = {
            key: tf.constant(tf.repeat(tf.constant(tf.make_ndarray(value)), batch, axis=0))
            for key, value in request.inputs.items()
        }
        for _ in range(3):
            run(**inputs)
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            run(**inputs)
            calls += 1
        print(threads, batch, calls * batch / (time.perf_counter() - start), flush=True)


def main() -> None:
    folder, file, seconds = sys.argv[1:4]
    if len(sys.argv) > 4:
        measure(folder, file, float(seconds), int(sys.argv[4]))
        return
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        subprocess.run(
            [sys.executable, __file__, folder, file, seconds, str(threads)], check=True, timeout=300
        )


if __name__ == "__main__":
    main()
