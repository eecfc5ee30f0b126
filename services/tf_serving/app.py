"""The ASGI application of the embedded server; configured by options.VARIABLE in the environment."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from libs.proto.descriptors import ServiceDescriptors
from libs.serving.asgi import GrpcApp
from libs.serving.call import Call, Handler
from libs.serving.errors import Unavailable
from libs.serving.health import SERVING
from libs.serving.metrics import Metrics
from services.tf_serving.execution import batching_parameters
from services.tf_serving.execution.engine import Engine, Threads
from services.tf_serving.execution.runtime import skip_keras
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.model.versions import latest
from services.tf_serving.options import VARIABLE, Options, pools, usable_cores
from services.tf_serving.protocols import service as rpc
from services.tf_serving.protocols.model_service import MODEL_SERVICE, ModelService
from services.tf_serving.serving.servables import Servable, Servables

log = logging.getLogger(__name__)

_CLOSE_S = 5.0
"""Bound of the wait for model threads once the transport has drained: nobody waits for their results any
more."""


def load(options: Options) -> Servable:
    """Load and warm up the latest version.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    version = latest(options.base_path)
    started = time.monotonic()
    threads = Threads(pools(options, usable_cores()).intra_op_threads, options.inter_op_threads)
    engine = Engine.load(version.path, threads)
    loaded = time.monotonic()
    warm = engine.warm_up() if options.warm_up else 0
    log.info(
        "loaded %s version %d from %s in %.1f s; warmed up %d signatures in %.2f s",
        *(
            options.model_name,
            version.number,
            version.path,
            loaded - started,
            warm,
            time.monotonic() - loaded,
        ),
    )
    return Servable(options.model_name, version.number, engine)


@dataclass(slots=True)
class _Loaded:
    service: rpc.Service
    model_service: ModelService
    scheduler: Scheduler


class Application:
    """One server from load to close. Its `app` is what an ASGI server runs, its `handlers` any other
    transport."""

    def __init__(self, options: Options) -> None:
        options, self._batch_rules = batching_parameters.effective(options)
        self._options = options
        self._loaded: _Loaded | None = None
        self._metrics = Metrics({"model": options.model_name})
        self.handlers: dict[str, Handler] = {
            f"/{rpc.PREDICTION_SERVICE}/Predict": self._when_loaded(lambda s: s.predict),
            f"/{rpc.PREDICTION_SERVICE}/Classify": self._when_loaded(lambda s: s.classify),
            f"/{rpc.PREDICTION_SERVICE}/Regress": self._when_loaded(lambda s: s.regress),
            f"/{rpc.PREDICTION_SERVICE}/MultiInference": self._when_loaded(lambda s: s.multi_inference),
            f"/{rpc.PREDICTION_SERVICE}/GetModelMetadata": self._when_loaded(lambda s: s.get_model_metadata),
            f"/{MODEL_SERVICE}/GetModelStatus": self._model_status,
        }
        self.app = GrpcApp(
            self.handlers,
            max_message_bytes=options.max_message_bytes,
            reflection=ServiceDescriptors(),
            on_startup=self.start,
            on_shutdown=self.stop,
            metrics=self._metrics,
        )

    async def start(self) -> None:
        """Load the model. Raises ModelError."""
        options = self._options
        servable = await asyncio.to_thread(load, options)
        stats = self._metrics.batcher(options.model_name)
        scheduler = Scheduler(
            threads=pools(options, usable_cores()).model_threads,
            max_queue=options.max_queue,
            max_batch_rows=options.max_batch_size,
            max_delay_ms=options.batch_timeout_ms,
            rules=self._batch_rules,
            observer=stats,
            in_place=options.in_place,
        )
        stats.queued_rows = lambda: scheduler.queued
        servables = Servables([servable])
        service = rpc.Service(servables, scheduler, as_content=options.as_content)
        self._loaded = _Loaded(service, ModelService(servables), scheduler)
        for name in (rpc.PREDICTION_SERVICE, MODEL_SERVICE):
            self.app.health.set_status(name, SERVING)

    async def stop(self) -> None:
        """Let running calls end and free the model."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None and await loaded.scheduler.close(_CLOSE_S):
            for servable in loaded.service.servables:
                servable.engine.close()

    async def _model_status(self, call: Call, body: bytes) -> bytes:
        if self._loaded is None:
            raise Unavailable("the model is not loaded")
        return await self._loaded.model_service.get_model_status(call, body)

    def _when_loaded(self, method: Callable[[rpc.Service], Handler]) -> Handler:
        async def handle(call: Call, body: bytes) -> bytes:
            return await self._call(method, call, body)

        return handle

    def _call(self, method: Callable[[rpc.Service], Handler], call: Call, body: bytes) -> Awaitable[bytes]:
        if self._loaded is None:
            raise Unavailable("the model is not loaded")
        return method(self._loaded.service)(call, body)


def create() -> GrpcApp:
    """The application of this process's environment."""
    options = Options.from_json(os.environ[VARIABLE])
    logging.basicConfig(
        level=options.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    skip_keras()
    return Application(options).app


if VARIABLE in os.environ:
    app = create()
