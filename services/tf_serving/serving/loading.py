"""From a version's folder to an engine that is ready: loaded, and warm."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Protocol

from services.tf_serving.execution import batching_parameters
from services.tf_serving.execution.batching_parameters import BatchingParametersError
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.execution.runtime import tensorflow
from services.tf_serving.model import warmup
from services.tf_serving.model.versions import ModelError
from services.tf_serving.options import Options, pools, usable_cores
from services.tf_serving.serving.servables import Servable
from services.tf_serving.serving.warm_up import replay

log = logging.getLogger(__name__)


class LoadObserver(Protocol):
    """Told about loads, from any thread."""

    def loaded(self, path: str, seconds: float, *, well: bool) -> None:
        """A version was loaded, or could not be, after so long."""

    def warmed_up(self, path: str, seconds: float, records: int, status: str) -> None:
        """The recorded requests of a version's warm-up were sent; `status` is OK or UNKNOWN."""


class Loader:
    """Loads versions as the options say. Any thread may call it."""

    def __init__(self, options: Options, observer: LoadObserver | None = None) -> None:
        self._observer = observer
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
        engine = self._load(path)
        engine.batched, engine.rules = batched, rules
        loaded = time.monotonic()
        try:
            told = (
                self._warm(Servable(name, number, engine), path) if self._options.warm_up else "not warmed up"
            )
        except BaseException:
            engine.close()
            raise
        log.info(
            "loaded %s version %d from %s in %.1f s; %s in %.2f s",
            *(name, number, path, loaded - started, told, time.monotonic() - loaded),
        )
        return engine

    def _load(self, path: Path) -> Engine:
        tensorflow()  # importing it is no part of what a load takes
        started, well = time.monotonic(), False
        try:
            engine = Engine.load(path, self._threads)
            well = True
            return engine
        finally:
            if self._observer is not None:
                self._observer.loaded(str(path), time.monotonic() - started, well=well)

    def _warm(self, servable: Servable, path: Path) -> str:
        rules = servable.engine.rules or self._rules
        sizes = rules.allowed_rows if servable.engine.batched else ()
        signatures = servable.engine.warm_up(sizes or (1,))
        file = path / warmup.FILE
        records = warmup.read(file)
        started, status = time.monotonic(), "UNKNOWN"
        try:
            replay(servable, records)
            status = "OK"
        except ModelError as error:
            raise ModelError(f"{file}: {error}") from error
        finally:
            if records and self._observer is not None:
                self._observer.warmed_up(str(path), time.monotonic() - started, len(records), status)
        return f"warmed up {signatures} signatures and by {len(records)} recorded requests"
