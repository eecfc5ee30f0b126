"""From a loaded model to the callers of its instances, as the command line and config.toml want them to run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from services.torch_worker.config import WorkerConfig
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.compile import compiled
from services.torch_worker.execution.cuda import CudaCaller, CudaLane, Recordings, memory_text, set_policy
from services.torch_worker.execution.instances import copies
from services.torch_worker.execution.precision import autocasted
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.model.model_config import ModelConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Execution:
    """How a model runs.

    Attributes:
        instances: of each device.
        threads: CPU threads of a call; None: chosen by what calls take.
        autocast: see ModelConfig.
        compile: see ModelConfig.
        graph_sizes: numbers of rows to record as CUDA graphs.
    """

    instances: int = 1
    threads: int | None = None
    autocast: str | None = None
    compile: str | None = None
    graph_sizes: tuple[int, ...] = ()


def execution_of(
    worker: WorkerConfig, model: ModelConfig, preferred_sizes: Sequence[int], largest: int
) -> Execution:
    """The command line's word, else the model folder's.

    Args:
        preferred_sizes: batch sizes; CUDA graphs are recorded for them, or for powers of two where there are none.
        largest: batch size.
    """
    graphs = worker.cuda_graphs if worker.cuda_graphs is not None else bool(model.cuda_graphs)
    powers = [1 << exponent for exponent in range(largest.bit_length()) if 1 << exponent < largest]
    threads = worker.threads if worker.threads is not None else model.threads
    return Execution(
        instances=worker.instances or model.instances or 1,
        threads=threads or None,
        autocast=worker.autocast or model.autocast,
        compile=worker.compile or model.compile,
        graph_sizes=tuple(preferred_sizes or (*powers, largest)) if graphs else (),
    )


class Instances:
    """The callers of a model's instances, on all devices.

    Args:
        model: in evaluation mode, on the first device.
        devices: each gets `execution.instances`.
        hooks: of the folder.
        execution: how it runs.

    Attributes:
        callers: one an instance.

    Raises:
        ConfigError: the model cannot be copied.
    """

    def __init__(
        self, model: torch.nn.Module, devices: Sequence[torch.device], hooks: Hooks, execution: Execution
    ) -> None:
        self._execution = execution
        self._devices = devices
        self._recordings: list[Recordings] = []
        if devices[0].type == "cuda":
            set_policy(fixed_shapes=bool(execution.graph_sizes))
        elif execution.graph_sizes:
            log.warning("--cuda-graphs is for CUDA devices; on the CPU it does nothing")
        models = copies(model, devices, execution.instances)
        self.callers: list[ModelCaller] = [
            self._caller(model, devices[index // execution.instances], hooks)
            for index, model in enumerate(models)
        ]

    def settle(self) -> None:
        """Compile and record from the next calls on, those of the warm-up.

        Raises:
            ConfigError: compiling is impossible here.
        """
        for caller in self.callers:
            if self._execution.compile is not None:
                call = compiled(caller.model, self._execution.compile, caller.device)
                if self._execution.autocast is not None:
                    call = autocasted(call, caller.device, self._execution.autocast)
                caller.forward = call
            if self._execution.graph_sizes and caller.device.type == "cuda":
                recordings = Recordings(caller.forward, self._execution.graph_sizes)
                self._recordings.append(recordings)
                caller.forward = recordings

    def warmed(self) -> None:
        """The warm-up is over: nothing more is recorded, and the log says what memory it took."""
        for recordings in self._recordings:
            recordings.recording = False
        for device in self._devices:
            if device.type == "cuda":
                log.info("memory after the warm-up on %s", memory_text(device))

    def _caller(self, model: torch.nn.Module, device: torch.device, hooks: Hooks) -> ModelCaller:
        forward, run_model = None, hooks.run_model
        if self._execution.autocast is not None:
            forward = autocasted(model, device, self._execution.autocast)
            if run_model is not None:
                run_model = autocasted(run_model, device, self._execution.autocast)
        if device.type != "cuda":
            return ModelCaller(model, device, run_model, forward=forward)
        return CudaCaller(
            model,
            CudaLane(device),
            run_model,
            forward=forward,
            follows_hooks=hooks.preprocesses,
            fetches=not hooks.postprocesses,
        )
