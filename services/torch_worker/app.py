"""The worker's ASGI application: all protocols, health and metrics over one model.

Imported by the serving process, which finds its WorkerConfig as JSON in the environment variable
CONFIG_VARIABLE.
"""

from __future__ import annotations

import logging
import os
import sys

from libs.proto.descriptors import ServiceDescriptors
from libs.serving.asgi import GrpcApp
from libs.serving.health import NOT_SERVING, SERVING, Health
from libs.serving.metrics import Metrics
from libs.serving.versions import State, parse_policy
from services.torch_worker.config import CONFIG_VARIABLE, WorkerConfig
from services.torch_worker.protocols.protocols import Protocols
from services.torch_worker.serving.assembly import Assembler
from services.torch_worker.serving.load import Load
from services.torch_worker.serving.repository import Repository
from services.torch_worker.serving.watcher import Watcher

# Once the transport has drained, nothing waits in the queues but what nobody waits for.
_CLOSE_S = 5.0


class Worker:
    """One model's service, from load to close, as an ASGI application."""

    def __init__(self, config: WorkerConfig) -> None:
        self._name = config.model_name
        self._repository = Repository(config.model_name)
        metrics = Metrics({"model": config.model_name, "device": config.device})
        metrics.batcher(config.model_name, lambda: self._repository.queued_rows)
        self._health = health = Health()
        self._watcher = Watcher(
            config.model_path,
            parse_policy(config.versions),
            self._repository,
            Assembler(config, metrics).load,
            interval_s=config.watch_interval_s,
            changed=self._tell_health,
        )
        metrics.registry.register(self._watcher.stats)
        protocols = Protocols(self._repository, health)
        self._services = {path.split("/")[1] for path in protocols.handlers()}
        self.app = GrpcApp(
            protocols.handlers(),
            routes=protocols.routes(),
            http_timeout_s=config.rest_timeout_s,
            reflection=ServiceDescriptors(),
            health=health,
            max_message_bytes=config.max_message_bytes,
            on_startup=self._start,
            on_shutdown=self._stop,
            metrics=metrics,
            load=Load(self._repository, metrics, config.max_queue) if config.load_report else None,
        )

    async def _start(self) -> None:
        await self._watcher.start()

    def _tell_health(self) -> None:
        """Readiness by service: each protocol's, the model's by its name, and NAME/VERSION of each version."""
        ready = SERVING if self._repository.versions() else NOT_SERVING
        statuses = dict.fromkeys((*self._services, self._name), ready)
        for version in self._repository.states():
            available = version.state is State.AVAILABLE
            statuses[f"{self._name}/{version.number}"] = SERVING if available else NOT_SERVING
        for service, status in statuses.items():
            if self._health.status(service) is not status:
                self._health.set_status(service, status)
        for service in self._health.services():
            if service and service not in statuses:
                self._health.forget(service)

    async def _stop(self) -> None:
        await self._watcher.stop()
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
