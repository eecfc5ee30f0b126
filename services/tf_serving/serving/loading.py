"""From a version's folder to an engine that is ready: loaded, and warm."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.options import Options, pools, usable_cores

log = logging.getLogger(__name__)


class Loader:
    """Loads versions as the options say. Any thread may call it."""

    def __init__(self, options: Options) -> None:
        self._warm_up = options.warm_up
        self._threads = Threads(pools(options, usable_cores()).intra_op_threads, options.inter_op_threads)

    def load(self, name: str, number: int, path: Path) -> Engine:
        """The engine of a model's version.

        Raises:
            ModelError: it cannot be loaded, or cannot answer a request that was recorded for its warm-up.
        """
        started = time.monotonic()
        engine = Engine.load(path, self._threads)
        loaded = time.monotonic()
        warm = engine.warm_up() if self._warm_up else 0
        log.info(
            "loaded %s version %d from %s in %.1f s; warmed up %d signatures in %.2f s",
            *(name, number, path, loaded - started, warm, time.monotonic() - loaded),
        )
        return engine
