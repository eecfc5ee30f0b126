"""The worker's ASGI application: Seldon's gRPC methods, health and metrics over one model engine.

Imported by the serving process, which finds its WorkerConfig as JSON in the environment variable
CONFIG_VARIABLE.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from functools import partial

import torch

from libs.serving.asgi import GrpcApp
from libs.serving.batcher import BatchPolicy
from libs.serving.call import Call
from libs.serving.errors import Unavailable
from libs.serving.metrics import Metrics
from services.torch_worker.config import (
    CONFIG_VARIABLE,
    DEFAULT_MAX_BATCH_SIZE,
    DEFAULT_MAX_DELAY_MS,
    ModelConfig,
    WorkerConfig,
)
from services.torch_worker.cores import hook_threads, model_threads, usable_cores
from services.torch_worker.engine import Engine
from services.torch_worker.folder import open_folder
from services.torch_worker.hooks import load_hooks
from services.torch_worker.loading import enter_folder, load_model, resolve_device
from services.torch_worker.service import METHODS, PredictService

log = logging.getLogger(__name__)

# Once the transport has drained, nothing waits in the queues but what nobody waits for.
_CLOSE_S = 5.0


def policy_of(worker: WorkerConfig, model: ModelConfig) -> BatchPolicy:
    """Batching bounds: the command line's, else the model folder's, else the defaults."""

    def first(*values: float | None) -> float:
        return next(v for v in values if v is not None)

    batch = int(first(worker.max_batch_size, model.max_batch_size, DEFAULT_MAX_BATCH_SIZE))
    delay = first(worker.max_delay_ms, model.max_delay_ms, DEFAULT_MAX_DELAY_MS)
    return BatchPolicy(batch, max(worker.max_queue, batch), delay)


def load_engine(worker: WorkerConfig) -> tuple[Engine, ModelConfig]:
    """Enter the model folder and load what is in it.

    Raises:
        ConfigError: something is missing or wrong; says what.
    """
    device = resolve_device(worker.device)
    folder = open_folder(worker.model_path)
    enter_folder(folder)
    hooks = load_hooks(folder)
    model = load_model(folder, device)
    engine = Engine(model, hooks, device=device, folder=folder.path, batchable=folder.config.batchable)
    return engine, folder.config


class Worker:
    """One model's service, from load to close, as an ASGI application."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._service: PredictService | None = None
        self._metrics = Metrics({"model": config.model_path.name, "device": config.device})
        self.app = GrpcApp(
            dict.fromkeys(METHODS, self._predict),
            max_message_bytes=config.max_message_bytes,
            on_startup=self._start,
            on_shutdown=self._stop,
            metrics=self._metrics,
        )

    async def _start(self) -> None:
        cores = usable_cores()
        threads = model_threads(self._config.threads, cores)
        torch.set_num_threads(threads)
        engine, model_config = await asyncio.to_thread(load_engine, self._config)
        policy = policy_of(self._config, model_config)
        name = self._config.model_path.name
        stats = self._metrics.batcher(name)
        self._service = PredictService(
            engine,
            policy,
            hook_threads=hook_threads(self._config.hook_threads, cores),
            thread_init=partial(torch.set_num_threads, threads),
            inline=engine.only_model,
            observer=stats,
            hook_observer=self._metrics.batcher(f"{name}/preprocess") if engine.preprocesses else None,
        )
        service = self._service
        stats.queued_rows = lambda: service.queued_rows
        log.info(
            "serving %s on %s: %d threads a call, batches of up to %d rows, delay %g ms, queue %d rows",
            name,
            self._config.device,
            threads,
            policy.max_batch_size,
            policy.max_delay_ms,
            policy.max_queue_rows,
        )

    async def _predict(self, call: Call, body: bytes) -> bytes:
        if self._service is None:
            raise Unavailable("the model is still loading")
        return await self._service.predict(call, body)

    async def _stop(self) -> None:
        if self._service is not None:
            await self._service.close(_CLOSE_S)


# Threads here hold Python's lock for microseconds, but CPython lets a waiting thread ask for it only after 5
# ms. torch gives the lock up at every operator, so the model's thread would wait that long for a busy event
# loop, over and over. Measured with the mmoe example at 64 calls in flight: 82 us of CPU a call at 5 ms, 73
# at 1 ms, about the same below.
_SWITCH_INTERVAL_S = 0.0005


def create() -> GrpcApp:
    """The application of the process's environment."""
    config = WorkerConfig.from_json(os.environ[CONFIG_VARIABLE])
    logging.basicConfig(
        level=config.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    return Worker(config).app


if CONFIG_VARIABLE in os.environ:
    app = create()
