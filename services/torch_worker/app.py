"""The worker's ASGI application: all protocols, health and metrics over one model.

Imported by the serving process, which finds its WorkerConfig as JSON in the environment variable
CONFIG_VARIABLE.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from libs.proto.descriptors import ServiceDescriptors
from libs.serving.asgi import GrpcApp
from libs.serving.health import Health
from libs.serving.metrics import Metrics
from services.torch_worker.config import CONFIG_VARIABLE, WorkerConfig
from services.torch_worker.model.directory import enter_directory
from services.torch_worker.protocols.protocols import Protocols
from services.torch_worker.serving.assembly import Assembler
from services.torch_worker.serving.load import Load
from services.torch_worker.serving.repository import Repository

# Once the transport has drained, nothing waits in the queues but what nobody waits for.
_CLOSE_S = 5.0


class Worker:
    """One model's service, from load to close, as an ASGI application."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._repository = Repository(config.model_name)
        metrics = Metrics({"model": config.model_name, "device": config.device})
        self._assembler = Assembler(config, metrics)
        health = Health()
        protocols = Protocols(self._repository, health)
        self.app = GrpcApp(
            protocols.handlers(),
            routes=protocols.routes(),
            reflection=ServiceDescriptors(),
            health=health,
            max_message_bytes=config.max_message_bytes,
            on_startup=self._start,
            on_shutdown=self._stop,
            metrics=metrics,
            load=Load(self._repository, metrics, config.max_queue) if config.load_report else None,
        )

    async def _start(self) -> None:
        self._repository.set(await asyncio.to_thread(self._assembler.load, self._config.model_path))
        enter_directory(self._config.model_path)

    async def _stop(self) -> None:
        await self._repository.close(_CLOSE_S)


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
