"""What `tf-serving serve` was asked for, checked once; travels to the serving process as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "TF_SERVING_OPTIONS"
"""Environment variable that carries the options to the application's process."""

DEFAULT_PORT = 8500
"""TensorFlow Serving's own."""
DEFAULT_MODEL_NAME = "default"
"""TensorFlow Serving's own."""
DEFAULT_MAX_BATCH_SIZE = 64
DEFAULT_MAX_QUEUE = 1024
DEFAULT_MAX_MESSAGE_BYTES = 10 << 20
"""What callers of this system are promised; see libs.serving."""
MAX_MODEL_THREADS = 4
"""Default bound of calls inside the runtime at a time: each more takes part in the fight for Python's lock."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one embedded server.

    Attributes:
        model_name: what requests call the one model, exactly; without model_config_file.
        model_base_path: its folder of version folders.
        model_config_file: a ModelServerConfig in the text format, with the models to serve; "" for the one model.
        model_config_file_poll_wait_s: how often that file is looked at again; 0: never.
        file_system_poll_wait_s: how often the models' folders are looked at for versions; 0: only at the start.
        allow_version_labels_for_unavailable_models: a label that is new may be given to a version that is not
            available.
        max_num_load_retries: how often a load that failed is tried again while the files are the same.
        load_retry_interval_s: and after how long.
        num_load_threads: versions that are loaded at a time, of different models; 0 is 1.
        enable_reload_config: whether callers may change the models by HandleReloadConfigRequest.
        rest_api_port: port of the REST API; 0: none.
        rest_api_timeout_ms: bound of a REST request's time.
        batching_parameters_file: BatchingParameters in the text format; "" for none.
        per_model_batching: only versions with batching parameters in their own folder are batched, by those.
        monitoring_config_file: a MonitoringConfig in the text format; "" for none.
        load_library: libraries of custom operators, loaded before any model.
        intra_op_threads: see engine.Threads; 0 divides the usable cores among the model threads.
        inter_op_threads: see engine.Threads.
        model_threads: calls inside the runtime at a time; 0 chooses by the usable cores.
        in_place: quick calls may run on the event loop's thread; see pace.
        max_batch_size: most rows in one run; None switches batching off.
        batch_timeout_ms: how long an incomplete batch may wait under concurrent traffic.
        max_queue: most calls (with batching: rows) that wait for a model thread.
        max_message_bytes: most bytes of a request.
        as_content: answer numbers in tensor_content instead of typed values.
        check_method_name: refuse signatures that were made for another method; see model.methods.
        warm_up: run every signature once before the server is ready.
        log_level: name of a Python logging level.
    """

    model_name: str
    model_base_path: str
    model_config_file: str = ""
    model_config_file_poll_wait_s: float = 0.0
    file_system_poll_wait_s: float = 1.0
    allow_version_labels_for_unavailable_models: bool = False
    max_num_load_retries: int = 5
    load_retry_interval_s: float = 60.0
    num_load_threads: int = 0
    enable_reload_config: bool = True
    rest_api_port: int = 0
    rest_api_timeout_ms: int = 30_000
    batching_parameters_file: str = ""
    per_model_batching: bool = False
    monitoring_config_file: str = ""
    load_library: tuple[str, ...] = ()
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    model_threads: int = 0
    in_place: bool = True
    max_batch_size: int | None = None
    batch_timeout_ms: float = 0.0
    max_queue: int = DEFAULT_MAX_QUEUE
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    as_content: bool = False
    check_method_name: bool = False
    warm_up: bool = True
    log_level: str = "INFO"

    @property
    def base_path(self) -> Path:
        """The model's folder."""
        return Path(self.model_base_path)

    def to_json(self) -> str:
        """The text that from_json reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Options:
        """Inverse of to_json."""
        fields = json.loads(text)
        return Options(**{**fields, "load_library": tuple(fields["load_library"])})


@dataclass(frozen=True, slots=True)
class Pools:
    """How the usable cores are divided: calls inside the runtime at a time, and threads of one call's kernels."""

    model_threads: int
    intra_op_threads: int


def pools(options: Options, cores: int) -> Pools:
    """The operator's numbers, or those derived from `cores`.

    Cores go to calls first and only what is left to their kernels: sharing one kernel's work costs hand-overs and
    busy waiting. textcnn with 2 calls of 1 thread each, against 2 calls sharing 2 threads, on 2 cores: 0.55 of the
    CPU and 1.4 to 2 times the requests/s at 16 in flight.
    """
    calls = options.model_threads or min(cores, MAX_MODEL_THREADS)
    return Pools(calls, options.intra_op_threads or max(1, cores // calls))


def usable_cores() -> int:
    """Cores that this process may use: its CPU affinity, cut by a cgroup (v2) quota, which containers
    have."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return cores
