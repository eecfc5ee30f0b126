"""The ASGI application of the embedded server; configured by options.VARIABLE in the environment."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from libs.proto.descriptors import ServiceDescriptors
from libs.serving.asgi import GrpcApp
from libs.serving.call import Handler, HttpHandler
from libs.serving.errors import Unavailable
from libs.serving.health import NOT_SERVING, SERVING
from libs.serving.metrics import BatchStats, Metrics
from libs.serving.versions import State
from services.tf_serving.execution import batching_parameters, libraries
from services.tf_serving.execution.runtime import skip_keras
from services.tf_serving.execution.scheduler import Scheduler
from services.tf_serving.monitoring import settings as monitoring
from services.tf_serving.monitoring.monitor import Monitor
from services.tf_serving.options import VARIABLE, Options, pools, usable_cores
from services.tf_serving.protocols import rest
from services.tf_serving.protocols import service as rpc
from services.tf_serving.protocols.model_service import MODEL_SERVICE, ModelService
from services.tf_serving.serving import model_configs
from services.tf_serving.serving.grace import Grace
from services.tf_serving.serving.loading import Loader
from services.tf_serving.serving.models import Models
from services.tf_serving.serving.servables import Servables
from services.tf_serving.serving.watcher import Watching

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

_CLOSE_S = 5.0
"""Bound of the wait for model threads once the transport has drained: nobody waits for their results any
more."""


@dataclass(slots=True)
class _Started:
    """What there is once the models are loaded."""

    service: rpc.Service
    model_service: ModelService
    rest: rest.Rest
    scheduler: Scheduler


class Application:
    """One server from load to close. Its `app` is what an ASGI server runs, its `handlers` any other
    transport."""

    def __init__(self, options: Options) -> None:
        options, self._batch_rules = batching_parameters.effective(options)
        self._options = options
        self._started: _Started | None = None
        self._ready = False
        self._grace = Grace()
        self._servables = Servables()
        self._name = "*" if options.model_config_file else options.model_name
        self._metrics = Metrics({"model": self._name})
        metrics_path = monitoring.metrics_path(options)
        self._monitor = monitor = (
            _monitor(options, self._metrics.batcher(self._name)) if metrics_path else None
        )
        self._models = Models(
            Loader(options, monitor.loads if monitor else None).load,
            self._servables,
            self._grace,
            Watching(
                options.file_system_poll_wait_s, options.max_num_load_retries, options.load_retry_interval_s
            ),
            load_threads=max(options.num_load_threads, 1),
            new_labels_anywhere=options.allow_version_labels_for_unavailable_models,
            changed=self._tell_health,
        )
        self._metrics.registry.register(self._models)
        prediction, model = f"/{rpc.PREDICTION_SERVICE}", f"/{MODEL_SERVICE}"
        self.handlers: dict[str, Handler] = {
            f"{prediction}/Predict": self._watched("Predict", lambda s: s.service.predict),
            f"{prediction}/Classify": self._watched("Classify", lambda s: s.service.classify),
            f"{prediction}/Regress": self._watched("Regress", lambda s: s.service.regress),
            f"{prediction}/MultiInference": self._guarded(lambda s: s.service.multi_inference),
            f"{prediction}/GetModelMetadata": self._guarded(lambda s: s.service.get_model_metadata),
            f"{model}/GetModelStatus": self._guarded(lambda s: s.model_service.get_model_status),
            # Not guarded: it waits for models to leave, which wait for the guarded calls.
            f"{model}/HandleReloadConfigRequest": self._started_only(
                lambda s: s.model_service.handle_reload_config_request
            ),
        }
        answer_rest: HttpHandler = self._guarded(lambda s: s.rest.handle)
        if monitor is not None:
            answer_rest = monitor.requests.watched_rest(rest.subject, answer_rest)
        self.app = GrpcApp(
            self.handlers,
            max_message_bytes=options.max_message_bytes,
            reflection=ServiceDescriptors(),
            routes=[*rest.routes(answer_rest), *([monitor.route(metrics_path)] if monitor else [])],
            http_timeout_s=options.rest_api_timeout_ms / 1000,
            on_startup=self.start,
            on_shutdown=self.stop,
            metrics=self._metrics,
        )

    async def start(self) -> None:
        """Load the models. Raises ModelError."""
        options = self._options
        await asyncio.to_thread(libraries.load, options.load_library)
        configs = await asyncio.to_thread(model_configs.configured, options)
        await self._models.start(configs)
        stats = self._metrics.batcher(self._name)
        scheduler = Scheduler(
            threads=pools(options, usable_cores()).model_threads,
            max_queue=options.max_queue,
            max_batch_rows=options.max_batch_size,
            max_delay_ms=options.batch_timeout_ms,
            rules=self._batch_rules,
            observer=stats,
            sizes=self._monitor.batches if self._monitor else None,
            in_place=options.in_place,
        )
        stats.queued_rows = lambda: scheduler.queued
        service = rpc.Service(
            self._servables,
            scheduler,
            as_content=options.as_content,
            check_method_name=options.check_method_name,
            observer=self._monitor.requests if self._monitor else None,
        )
        reload = self._models.reload_message if options.enable_reload_config else None
        model_service = ModelService(self._servables, reload)
        self._started = _Started(service, model_service, rest.Rest(service, model_service), scheduler)
        if options.model_config_file and options.model_config_file_poll_wait_s:
            self._models.follow(
                Path(options.model_config_file), options.model_config_file_poll_wait_s, configs
            )
        self._tell_health()

    async def stop(self) -> None:
        """Let running calls end and free the models."""
        await self._models.stop()
        started, self._started = self._started, None
        if started is not None and await started.scheduler.close(_CLOSE_S):
            for servable in self._servables:
                servable.engine.close()

    def _tell_health(self) -> None:
        """Readiness by service: the whole server's, the two services', a model's by its name, and NAME/VERSION of each
        of its versions.

        The server is ready once every model can answer. A model that is added later and cannot be loaded does not take
        that back: the others' callers would suffer for it.
        """
        availability = self._models.availability()
        self._ready = self._ready or (self._started is not None and all(availability.values()))
        whole = SERVING if self._ready else NOT_SERVING
        statuses = dict.fromkeys(("", rpc.PREDICTION_SERVICE, MODEL_SERVICE), whole)
        for name, available in availability.items():
            statuses[name] = SERVING if available else NOT_SERVING
            for version in self._models.states(name):
                serves = version.state is State.AVAILABLE
                statuses[f"{name}/{version.number}"] = SERVING if serves else NOT_SERVING
        health = self.app.health
        for service, status in statuses.items():
            if health.status(service) is not status:
                health.set_status(service, status)
        for service in health.services():
            if service not in statuses:
                health.forget(service)

    def _watched(self, api: str, find: Callable[[_Started], Handler]) -> Handler:
        """A guarded handler whose calls count in TensorFlow Serving's metrics, where they are wanted."""
        handler: Handler = self._guarded(find)
        return handler if self._monitor is None else self._monitor.requests.watched(api, handler)

    def _guarded(self, find: Callable[[_Started], Callable[P, Awaitable[R]]]) -> Callable[P, Awaitable[R]]:
        """A handler whose models stay until it has ended."""
        grace = self._grace

        async def handle(*args: P.args, **kwargs: P.kwargs) -> R:
            if self._started is None:
                raise Unavailable("the models are not loaded")
            epoch = grace.epoch
            epoch.calls += 1
            try:
                return await find(self._started)(*args, **kwargs)
            finally:
                epoch.calls -= 1

        return handle

    def _started_only(
        self, find: Callable[[_Started], Callable[P, Awaitable[R]]]
    ) -> Callable[P, Awaitable[R]]:
        async def handle(*args: P.args, **kwargs: P.kwargs) -> R:
            if self._started is None:
                raise Unavailable("the models are not loaded")
            return await find(self._started)(*args, **kwargs)

        return handle


def _monitor(options: Options, runs: BatchStats) -> Monitor:
    file = options.batching_parameters_file
    parameters = batching_parameters.read(Path(file)) if file else batching_parameters.BatchingParameters()
    return Monitor(runs, parameters.thread_pool_name)


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
