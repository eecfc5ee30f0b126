"""What the operator says on the command line. The model's owner speaks through config.toml: `model.model_config`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

CONFIG_VARIABLE = "TORCH_WORKER_CONFIG"

DEVICE_FORM = r"cpu|cuda(:\d{1,4}(,\d{1,4})*)?"

DEFAULT_MAX_BATCH_SIZE = 64
DEFAULT_MAX_QUEUE = 1024
# The original's limit, which callers and gateway keep as well.
DEFAULT_MAX_MESSAGE_BYTES = 10 << 20
DEFAULT_REST_TIMEOUT_S = 60.0


class ConfigError(ValueError):
    """Something in the worker's configuration or model folder is wrong; the message says what to do about
    it.
    """


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What the command line says; travels to the serving process as JSON. None leaves it to config.toml, then to the
    default.

    Attributes:
        model_dir: absolute path of the model folder, or of a folder of versions.
        name: the model's name in protocols that have one; "" for the folder's.
        versions: which versions are served: "latest", "latest:N", "all" or numbers, "1,3".
        watch_interval_s: how often the folder is looked at for new versions; 0 for never.
        weights_only: refuse files that are code (pickles).
        device: cpu, cuda, cuda:N, or several, cuda:0,1.
        instances: see ModelConfig; of each device.
        threads: see ModelConfig; 0 chooses from the cores that this process may use.
        hook_threads: threads that run preprocess; 0 chooses.
        autocast, compile, cuda_graphs: see ModelConfig.
        max_batch_size, max_delay_ms, preferred_batch_sizes: see ModelConfig.
        max_queue: most rows waiting for the model; more are refused with RESOURCE_EXHAUSTED.
        max_message_bytes: largest request message.
        rest_timeout_s: when an HTTP request ends whose caller names no time, or a longer one.
        log_requests: share of the requests that are logged, 0 to 1.
        load_report: whether answers carry the worker's load (ORCA) as a trailer.
        log_level: a level name of the logging module.
    """

    model_dir: str
    name: str = ""
    versions: str = "latest"
    watch_interval_s: float = 2.0
    weights_only: bool = False
    device: str = "cpu"
    instances: int | None = None
    threads: int | None = None
    hook_threads: int = 0
    autocast: str | None = None
    compile: str | None = None
    cuda_graphs: bool | None = None
    max_batch_size: int | None = None
    max_delay_ms: float | None = None
    preferred_batch_sizes: tuple[int, ...] | None = None
    max_queue: int = DEFAULT_MAX_QUEUE
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    rest_timeout_s: float = DEFAULT_REST_TIMEOUT_S
    log_requests: float = 0.0
    load_report: bool = True
    log_level: str = "INFO"

    @property
    def model_name(self) -> str:
        """The model's name in protocols that have one."""
        return self.name or self.model_path.name

    @property
    def model_path(self) -> Path:
        """The model folder."""
        return Path(self.model_dir)

    def to_json(self) -> str:
        """The form that from_json reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> WorkerConfig:
        """Inverse of to_json."""
        values = json.loads(text)
        sizes = values.get("preferred_batch_sizes")
        return WorkerConfig(**{**values, "preferred_batch_sizes": None if sizes is None else tuple(sizes)})
