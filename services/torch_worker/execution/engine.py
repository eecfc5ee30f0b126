"""The model engine: hooks, model calls shared by requests, and answers. Knows no protocol and no event loop.

A request becomes a `Job` (`prepare`), jobs of one key run together (`run`, on a model's thread), and every job gets its
own answer or its own error. The answers are those that the requests would get one by one: that is checked on the
first shared call and now and then (`sharing`), and a shared call that fails is run again in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from libs.serving.errors import ServingError
from services.torch_worker.execution.arguments import tag_selector
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.finishing import Finisher
from services.torch_worker.execution.jobs import Job
from services.torch_worker.execution.preparing import Preparer
from services.torch_worker.execution.running import Runner
from services.torch_worker.execution.sharing import Sharing
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.model.model_config import PaddingConfig

__all__ = ["Engine", "Job"]


class Engine:
    """A loaded model with its hooks.

    Args:
        callers: one a model instance, all of the same model. `run` names the one to use by its index. What they return
            may be read by any thread, also while the next call runs.
        hooks: of the model's folder.
        folder: names places in error messages.
        batchable: see ModelConfig.batchable.
        padding: how sequences of different lengths may share calls; None: they do not.
        free_memory: gives back what torch keeps of a device's memory; called when a call ran out of it.

    `prepare` and `finish` may run on several threads at a time; `run` and `outputs` may too, each with an instance of
    its own. What is learnt about the model (which inputs it takes, whether requests can share calls, how many rows fit
    into memory) holds for all instances.
    """

    def __init__(
        self,
        callers: Sequence[ModelCaller],
        hooks: Hooks,
        *,
        folder: Path,
        batchable: bool | None = None,
        padding: PaddingConfig | None = None,
        free_memory: Callable[[], None] = lambda: None,
    ) -> None:
        self._callers = tuple(callers)
        self._hooks = hooks
        self._postprocesses = hooks.postprocesses
        select_tags = tag_selector(callers[0].model) if hooks.model_takes_tags else None
        shares = batchable if batchable is not None else hooks.run_model is None
        self._sharing = Sharing(shares, batchable is True, padding is not None)
        self._preparer = Preparer(hooks, folder, select_tags, padding)
        self._runner = Runner(self._sharing, hooks, folder, padding, free_memory)
        self._finisher = Finisher(hooks, folder)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Column names that processor.py gives to the answers."""
        return self._hooks.class_names

    @property
    def preprocesses(self) -> bool:
        """Whether `prepare` runs a hook, and so may take long."""
        return self._hooks.preprocesses

    @property
    def prepares_many(self) -> bool:
        """Whether several requests are prepared faster together than one by one."""
        return self._hooks.preprocess_batch is not None

    @property
    def postprocesses(self) -> bool:
        """Whether `finish` runs a hook, and so may take long."""
        return self._postprocesses

    @property
    def finishes_many(self) -> bool:
        """Whether several outputs are finished faster together than one by one."""
        return self._hooks.postprocess_batch is not None

    @property
    def only_model(self) -> bool:
        """Whether nothing but the model itself runs, on the CPU: no hooks, which may wait for something."""
        hooks = self._hooks
        no_hooks = not hooks.preprocesses and hooks.run_model is None and not hooks.postprocesses
        return no_hooks and self._callers[0].device.type == "cpu"

    @property
    def instances(self) -> int:
        """How many calls of `run` may go on at a time."""
        return len(self._callers)

    @property
    def shares_calls(self) -> bool:
        """Whether requests may share model calls, as far as is known now."""
        return self._sharing.shares

    def key(self, job: Job) -> Hashable:
        """Jobs with equal keys may be given to `run` together."""
        if job.key is None or not self._sharing.shares:
            return job
        return job.key if job.padded_key is None or not self._sharing.pads else job.padded_key

    def prepare(self, payload: Any, meta: Mapping[str, Any]) -> Job:
        """Make a job of a request, running preprocess on it.

        Args:
            payload: numpy array, dict of such by the inputs' names, bytes, str or JSON value. Arrays may be read-only
                views; hooks get writable copies.
            meta: handed to the hooks as kwargs["meta"]; has at least the key "tags", a dict.

        Raises:
            InvalidArgument: preprocess raised ValueError, or there is none and the payload is no array of
                numbers.
            Internal: preprocess raised something else.
        """
        return self._preparer.prepare(payload, meta)

    def prepare_many(self, requests: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[Job | ServingError]:
        """Make jobs of requests' payloads and metas, running preprocess_batch on all together where there is one.

        In a job's place stands the error where a request failed; see `prepare`.
        """
        return self._preparer.prepare_many(requests)

    def run(self, jobs: Sequence[Job], instance: int = 0) -> list[Any]:
        """Answer jobs of one key on one instance; in an answer's place stands a ServingError where a job failed.

        An answer is what postprocess returned, or without one what `tensors.plain` makes of the model's
        output.
        """
        outputs = self.outputs(jobs, instance)
        return self.finish(jobs, outputs) if self._postprocesses else outputs

    def outputs(self, jobs: Sequence[Job], instance: int = 0) -> list[Any]:
        """What `finish` makes answers of: the model's outputs; the answers already where there is no postprocess."""
        return self._runner.outputs(self._callers[instance], jobs)

    def finish(self, jobs: Sequence[Job], outputs: Sequence[Any]) -> list[Any]:
        """The answers of jobs, running postprocess on their outputs, or postprocess_batch on all together."""
        if not self._postprocesses:
            return list(outputs)
        return self._finisher.finish(list(zip(jobs, outputs, strict=True)))
