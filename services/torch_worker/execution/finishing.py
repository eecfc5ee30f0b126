"""From a model's outputs to the answers: postprocess, or the default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from libs.serving.errors import ServingError
from services.torch_worker.execution.grouped import copied, grouped, results_of
from services.torch_worker.execution.jobs import Job
from services.torch_worker.execution.tensors import plain
from services.torch_worker.model.failures import failure, together_failed
from services.torch_worker.model.hooks import Hooks

Item = tuple[Job, Any]


class Finisher:
    """Runs the hooks after the model. Used by any number of threads at a time."""

    def __init__(self, hooks: Hooks, folder: Path) -> None:
        self._hooks = hooks
        self._folder = folder

    def finish(self, items: Sequence[Item]) -> list[Any]:
        """The answers of jobs and their outputs; a ServingError in an output's place stays there."""
        hook = self._hooks.postprocess_batch
        with torch.inference_mode():
            if hook is None or len(items) == 1:
                return [self._alone(item) for item in items]

            def together(some: Sequence[Item]) -> list[Any]:
                outputs = [copied(output) for _, output in some]
                value = hook(outputs, metas=[job.kwargs["meta"] for job, _ in some])
                return results_of(value, len(some), "postprocess_batch")

            good = [item for item in items if not isinstance(item[1], ServingError)]
            if not good:
                return [output for _, output in items]
            answers = iter(
                grouped(
                    good,
                    together,
                    self._alone,
                    lambda error, count: together_failed("postprocess_batch", count, error, self._folder),
                )
            )
            return [out if isinstance(out, ServingError) else next(answers) for _, out in items]

    def _alone(self, item: Item) -> Any:
        job, output = item
        if isinstance(output, ServingError):
            return output
        hooks = self._hooks
        try:
            if hooks.postprocess is not None:
                return hooks.postprocess(output, **job.kwargs)
            if hooks.postprocess_batch is not None:
                value = hooks.postprocess_batch([output], metas=[job.kwargs["meta"]])
                return results_of(value, 1, "postprocess_batch")[0]
            return plain(output)
        except BaseException as error:
            single = hooks.postprocess is not None or hooks.postprocess_batch is None
            return failure("postprocess" if single else "postprocess_batch", error, self._folder)
