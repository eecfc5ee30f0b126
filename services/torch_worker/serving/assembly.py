"""From a version's folder to a `Servable`: load, put on the device, and give it threads and queues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import random

import torch

from libs.serving.batcher import BatchPolicy
from libs.serving.metrics import Metrics
from services.torch_worker.config import DEFAULT_MAX_BATCH_SIZE, ConfigError, WorkerConfig
from services.torch_worker.execution.building import Instances, execution_of
from services.torch_worker.execution.cores import hook_threads, model_threads, usable_cores
from services.torch_worker.execution.devices import resolve_devices
from services.torch_worker.execution.engine import Engine
from services.torch_worker.execution.recorded import read_recorded
from services.torch_worker.execution.warmup import Warmth, WarmUp, on_own_thread, warm_up
from services.torch_worker.model.loading import LoadedModel, open_model
from services.torch_worker.model.model_config import ModelConfig, WarmupConfig
from services.torch_worker.serving.request_log import RequestLog
from services.torch_worker.serving.servable import STAGES, Servable

log = logging.getLogger(__name__)


def policy_of(worker: WorkerConfig, model: ModelConfig) -> BatchPolicy:
    """Batching bounds: the command line's, else the model folder's, else the defaults.

    Raises:
        ConfigError: a preferred batch size is more than a batch holds.
    """
    batch = worker.max_batch_size or model.max_batch_size or DEFAULT_MAX_BATCH_SIZE
    delay = worker.max_delay_ms if worker.max_delay_ms is not None else model.max_delay_ms
    preferred = worker.preferred_batch_sizes or model.preferred_batch_sizes or ()
    if preferred and max(preferred) > batch:
        said = (
            "--preferred-batch-sizes"
            if worker.preferred_batch_sizes
            else "config.toml: preferred_batch_sizes"
        )
        raise ConfigError(
            f"{said} has {max(preferred)}: expected at most max_batch_size, {batch}; --max-batch-size, or "
            "max_batch_size in config.toml, raises that"
        )
    return BatchPolicy(batch, max(worker.max_queue, batch), delay, preferred)


class Assembler:
    """Makes servables by the worker's configuration; called on a thread of its own, one version at a time."""

    def __init__(self, config: WorkerConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        # Chosen for the first version; later ones are loaded while that one serves, which would spoil the measurement.
        self._threads: int | None = None

    def load(self, path: Path, opened: Callable[[LoadedModel], None] | None = None) -> Servable:
        """The servable of the model folder at path, warm and ready to answer.

        Args:
            opened: is told what the folder holds, before it is warmed up.

        Raises:
            ConfigError: something is missing or wrong, or a recorded request cannot be answered; says what.
        """
        devices = resolve_devices(self._config.device)
        loaded = open_model(path, devices[0], weights_only=self._config.weights_only)
        try:
            if opened is not None:
                opened(loaded)
            with loaded.entered():
                return self._assemble(loaded, devices)
        except BaseException:
            loaded.namespace.close()
            raise

    def _assemble(self, loaded: LoadedModel, devices: Sequence[torch.device]) -> Servable:
        config = self._config
        folder, hooks = loaded.folder, loaded.hooks
        cores = usable_cores()
        policy = policy_of(config, folder.config)
        execution = execution_of(config, folder.config, policy.preferred_batch_sizes, policy.max_batch_size)
        instances = Instances(loaded.model, devices, hooks, execution)
        callers = instances.callers
        engine = Engine(
            callers,
            hooks,
            folder=folder.path,
            batchable=folder.config.batchable,
            padding=folder.config.padding,
            free_memory=torch.cuda.empty_cache if devices[0].type == "cuda" else _nothing,
        )
        warmup = folder.config.warmup or WarmupConfig()
        known = execution.threads or self._threads
        recorded = [read_recorded(folder.path / file) for file in warmup.files]
        warming = WarmUp(
            instances=len(callers),
            max_rows=policy.max_batch_size,
            sizes=(*policy.preferred_batch_sizes, *warmup.rows),
        )

        def warm() -> Warmth:
            loaded.enter_thread()
            return warm_up(
                engine,
                callers,
                recorded,
                folder.config.inputs,
                warming,
                cores=cores,
                threads=known or (model_threads(cores) if devices[0].type == "cuda" else None),
                alone=hooks.run_model is not None,
                settled=instances.settle,
            )

        warmth = on_own_thread(warm)
        instances.warmed()
        self._threads = threads = warmth.threads or model_threads(cores, len(callers))
        set_threads = partial(torch.set_num_threads, threads)
        set_threads()

        def enter_thread() -> None:
            loaded.enter_thread()
            set_threads()

        def enter(instance: int) -> None:
            if _on_event_loop():  # where lone requests run: that thread is no version's own
                set_threads()
            else:
                enter_thread()
            callers[instance].enter_thread()

        name = config.model_name
        stats = self._metrics.batcher(name)
        servable = Servable(
            engine,
            policy,
            hook_threads=hook_threads(config.hook_threads, cores),
            thread_init=enter_thread,
            instance_init=enter,
            inline=engine.only_model,
            observer=stats,
            hook_observer=self._metrics.batcher(f"{name}/preprocess") if engine.preprocesses else None,
            inputs=folder.config.inputs,
            outputs=folder.config.outputs,
            stages=self._metrics.stages(name, STAGES),
            request_log=RequestLog(config.log_requests, random) if config.log_requests else None,
            on_closed=loaded.namespace.close,
        )
        servable.remember(warmth.seconds)
        log.info(
            "loaded %s on %s: %d instances, %d threads a call, batches of up to %d rows, delay %s, queue %d rows",
            name,
            config.device,
            len(callers),
            threads,
            policy.max_batch_size,
            "adaptive" if policy.max_delay_ms is None else f"up to {policy.max_delay_ms:g} ms",
            policy.max_queue_rows,
        )
        return servable


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _nothing() -> None:
    pass
