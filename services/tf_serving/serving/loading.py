"""From a version's folder to an engine that is ready: loaded, and warm."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from services.tf_serving.execution import batching_parameters
from services.tf_serving.execution.batching_parameters import BatchingParametersError
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.model import warmup
from services.tf_serving.model.versions import ModelError
from services.tf_serving.options import Options, pools, usable_cores
from services.tf_serving.serving.servables import Servable
from services.tf_serving.serving.warm_up import replay

log = logging.getLogger(__name__)


class Loader:
    """Loads versions as the options say. Any thread may call it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._rules = batching_parameters.effective(options)[1]
        self._threads = Threads(pools(options, usable_cores()).intra_op_threads, options.inter_op_threads)

    def load(self, name: str, number: int, path: Path) -> Engine:
        """The engine of a model's version.

        Raises:
            ModelError: it cannot be loaded, its own batching parameters are wrong, or it cannot answer a request that
                was recorded for its warm-up.
        """
        try:
            batched, rules = batching_parameters.of_version(self._options, path)
        except BatchingParametersError as error:
            raise ModelError(str(error)) from error
        started = time.monotonic()
        engine = Engine.load(path, self._threads)
        engine.batched, engine.rules = batched, rules
        loaded = time.monotonic()
        try:
            told = (
                self._warm(Servable(name, number, engine), path / warmup.FILE)
                if self._options.warm_up
                else "not warmed up"
            )
        except BaseException:
            engine.close()
            raise
        log.info(
            "loaded %s version %d from %s in %.1f s; %s in %.2f s",
            *(name, number, path, loaded - started, told, time.monotonic() - loaded),
        )
        return engine

    def _warm(self, servable: Servable, file: Path) -> str:
        rules = servable.engine.rules or self._rules
        sizes = rules.allowed_rows if servable.engine.batched else ()
        signatures = servable.engine.warm_up(sizes or (1,))
        records = warmup.read(file)
        try:
            replay(servable, records)
        except ModelError as error:
            raise ModelError(f"{file}: {error}") from error
        return f"warmed up {signatures} signatures and by {len(records)} recorded requests"
