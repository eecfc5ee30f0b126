"""The model engine: hooks, model calls shared by requests, and answers. Knows no protocol and no event loop.

A request becomes a `Job` (`prepare`, on any thread), jobs of one key run together (`run`, on the model's
thread), and every job gets its own answer or its own error. The answers are those that the requests would get
one by one: that is checked on the first batch (`_Sharing`), and a batch whose model call fails is run again
    one by one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libs.serving.errors import Internal, InvalidArgument, ServingError
from services.torch_worker.execution.arguments import tag_selector
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.compare import perturbed, same
from services.torch_worker.execution.tensors import NotSplittableError, join, plain, plain_parts, split
from services.torch_worker.model.failures import failure
from services.torch_worker.model.hooks import Hooks

log = logging.getLogger(__name__)

# Requests of the first shared call. Each runs by itself too, one after the other, while the rest waits.
_CHECKED = 4
# Forms of input remembered; a model that takes more than these is not one to say what it takes.
_MAX_FORMS = 64


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way through the engine.

    Attributes:
        data: the model's input: preprocess's result, or the payload where there is no preprocess.
        kwargs: what the hooks get as keyword arguments: {"meta": {"tags": {...}, ...}}.
        model_kwargs: keyword arguments of the model call, from the tags; mostly empty.
        rows: size of dimension 0, for jobs that can share a call; else 1.
        key: jobs of equal keys can share a call; None: this one cannot.
        form: dtype and trailing shape of an input that has rows.
    """

    data: Any
    kwargs: dict[str, Any]
    model_kwargs: dict[str, Any]
    rows: int
    key: Hashable
    form: tuple[Any, ...] | None


class Engine:
    """A loaded model with its hooks.

    Args:
        callers: one a model instance, all of the same model. `run` names the one to use by its index.
        hooks: of the model's folder.
        folder: names places in error messages.
        batchable: see ModelConfig.batchable.

    `prepare` may run on several threads at a time; `run` may too, each with an instance of its own. What is learnt
    about the model (which inputs it takes, whether requests can share calls) holds for all instances.
    """

    def __init__(
        self,
        callers: Sequence[ModelCaller],
        hooks: Hooks,
        *,
        folder: Path,
        batchable: bool | None = None,
    ) -> None:
        self._callers = tuple(callers)
        self._hooks = hooks
        self._folder = folder
        self._select_tags = tag_selector(callers[0].model) if hooks.model_takes_tags else None
        # dtypes and trailing shapes that the model has answered.
        self._answered: dict[tuple[Any, ...], None] = {}
        self._shares = batchable if batchable is not None else hooks.run_model is None
        self._verified = batchable is True

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Column names that processor.py gives to the answers."""
        return self._hooks.class_names

    @property
    def preprocesses(self) -> bool:
        """Whether `prepare` runs a hook, and so may take long."""
        return self._hooks.preprocess is not None

    @property
    def only_model(self) -> bool:
        """Whether nothing but the model itself runs, on the CPU: no hooks, which may wait for something."""
        hooks = self._hooks
        no_hooks = hooks.preprocess is None and hooks.run_model is None and hooks.postprocess is None
        return no_hooks and self._callers[0].device.type == "cpu"

    @property
    def instances(self) -> int:
        """How many calls of `run` may go on at a time."""
        return len(self._callers)

    @property
    def shares_calls(self) -> bool:
        """Whether requests may share model calls, as far as is known now."""
        return self._shares

    def key(self, job: Job) -> Hashable:
        """Jobs with equal keys may be given to `run` together."""
        return job if job.key is None or not self._shares else job.key

    def prepare(self, payload: Any, meta: Mapping[str, Any]) -> Job:
        """Make a job of a request, running preprocess on it.

        Args:
            payload: numpy array, bytes, str or JSON value. Arrays may be read-only views; hooks get writable
                copies.
            meta: handed to the hooks as kwargs["meta"]; has at least the key "tags", a dict.

        Raises:
            InvalidArgument: preprocess raised ValueError, or there is none and the payload is no array of
                numbers.
            Internal: preprocess raised something else.
        """
        kwargs: dict[str, Any] = {"meta": dict(meta)}
        hook = self._hooks.preprocess
        if hook is not None:
            if isinstance(payload, np.ndarray) and not payload.flags.writeable:
                payload = payload.copy()
            try:
                with torch.inference_mode():
                    payload = hook(payload, **kwargs)
            except BaseException as error:
                raise failure("preprocess", error, self._folder) from error
        elif self._hooks.run_model is None and not _is_numeric(payload):
            raise InvalidArgument(
                f"this model takes arrays of numbers (data.tensor, data.ndarray, data.tftensor), got "
                f"{_describe(payload)}; a preprocess function in its processor.py could accept that"
            )
        elif isinstance(payload, np.ndarray) and self._hooks.run_model is not None:
            # As the template's preprocess does: a run_model without a preprocess of its own gets a tensor.
            payload = torch.from_numpy(payload.copy()) if _is_numeric(payload) else payload.copy()
        tags = kwargs["meta"].get("tags") or {}
        # One tag is the task id that routed the call; more than one means arguments for the model.
        model_kwargs = self._select_tags(tags) if self._select_tags is not None and len(tags) > 1 else {}
        rows, key, form = 1, None, None
        if isinstance(payload, np.ndarray | torch.Tensor) and payload.ndim > 0 and _is_numeric(payload):
            rows = payload.shape[0]
            # A run_model sees all tags, so only equal ones may share its call.
            relevant = tags if self._hooks.run_model is not None else model_kwargs
            form = (payload.dtype, payload.shape[1:])
            key = (type(payload), *form, _frozen(relevant) if relevant else None)
        return Job(payload, kwargs, model_kwargs, rows, key, form)

    def run(self, jobs: Sequence[Job], instance: int = 0) -> list[Any]:
        """Answer jobs of one key on one instance; in an answer's place stands a ServingError where a job failed.

        An answer is what postprocess returned, or without one what `tensors.plain` makes of the model's
        output.
        """
        caller = self._callers[instance]
        with torch.inference_mode():
            if len(jobs) == 1:
                return [self._run_alone(caller, jobs[0])]
            if not self._shares:
                return [self._run_alone(caller, job) for job in jobs]
            if not self._verified:
                first = self._verify(caller, jobs[:_CHECKED])
                return first + (self.run(jobs[_CHECKED:], instance) if len(jobs) > _CHECKED else [])
            return self._run_shared(caller, jobs)

    def _run_shared(self, caller: ModelCaller, jobs: Sequence[Job]) -> list[Any]:
        rows = [job.rows for job in jobs]
        try:
            output = self._call(caller, [job.data for job in jobs], jobs[0])
            if self._hooks.postprocess is None:
                return list(plain_parts(output, rows))
            parts = split(output, rows)
        except NotSplittableError as reason:
            self._stop_sharing(str(reason))
            return [self._run_alone(caller, job) for job in jobs]
        except BaseException as error:
            log.warning(
                "a shared model call of %d requests failed (%s); running them one by one", len(jobs), error
            )
            return [self._run_alone(caller, job) for job in jobs]
        return [self._finish(job, part) for job, part in zip(jobs, parts, strict=True)]

    def _run_alone(self, caller: ModelCaller, job: Job) -> Any:
        try:
            output = self._call(caller, [job.data], job)
        except BaseException as error:
            return self._model_failure(job, error)
        return self._finish(job, output)

    def _verify(self, caller: ModelCaller, jobs: Sequence[Job]) -> list[Any]:
        """Run the first batch both ways and compare; share calls from now on only if the answers are the
        same.

        Equal requests (a load test, a probe) would hide a model that mixes rows, so a changed copy of one
        goes with them; its answer is only compared.
        """
        outputs: list[Any] = []
        for job in jobs:
            try:
                outputs.append(self._call(caller, [job.data], job))
            except BaseException as error:
                outputs.append(self._model_failure(job, error))
        if any(isinstance(output, ServingError) for output in outputs):
            return [
                o if isinstance(o, ServingError) else self._finish(j, o)
                for j, o in zip(jobs, outputs, strict=True)
            ]
        answers = outputs
        inputs, rows = [job.data for job in jobs], [job.rows for job in jobs]
        if _alike(jobs):
            witness = perturbed(max(jobs, key=lambda job: job.rows).data)
            try:
                outputs = [*outputs, self._call(caller, [witness], jobs[0])]
            except Exception as error:
                log.info(
                    "whether requests can share model calls stays open: a changed copy failed, %s", error
                )
                return [self._finish(job, output) for job, output in zip(jobs, answers, strict=True)]
            inputs.append(witness)
            rows.append(len(witness))
        try:
            shared = split(self._call(caller, inputs, jobs[0]), rows)
            if not any(rows):
                pass  # requests without rows prove nothing
            elif all(same(part, output) for part, output in zip(shared, outputs, strict=True)):
                self._verified = True
                log.info(
                    "requests share model calls: a first batch of %d gave the single requests' answers",
                    len(jobs),
                )
            else:
                self._stop_sharing("a batch gave other answers than its requests one by one")
        except NotSplittableError as reason:
            self._stop_sharing(str(reason))
        except Exception as error:
            self._stop_sharing(f"a batch of {len(jobs)} requests failed, {type(error).__name__}: {error}")
        return [self._finish(job, output) for job, output in zip(jobs, answers, strict=True)]

    def _stop_sharing(self, reason: str) -> None:
        self._shares = False
        log.warning(
            "requests will not share model calls: %s (batchable in config.toml overrides this)", reason
        )

    def _finish(self, job: Job, output: Any) -> Any:
        hook = self._hooks.postprocess
        try:
            return plain(output) if hook is None else hook(output, **job.kwargs)
        except BaseException as error:
            return failure("postprocess", error, self._folder)

    def _call(self, caller: ModelCaller, inputs: Sequence[Any], job: Job) -> Any:
        """One model call for several requests' inputs, with job's keyword arguments."""
        output = caller.call(inputs, job.model_kwargs, job.kwargs)
        if job.form is not None and job.form not in self._answered and len(self._answered) < _MAX_FORMS:
            self._answered[job.form] = None
        return output

    def _model_failure(self, job: Job, error: BaseException) -> ServingError:
        """The error of a failed model call.

        An input of a form that the model never answered, while it answers others, is the caller's mistake.
        """
        stage = "run_model" if self._hooks.run_model is not None else "the model"
        known = failure(stage, error, self._folder)
        answered = self._answered
        if isinstance(known, Internal) and answered and job.form is not None and job.form not in answered:
            good = _form_text(next(iter(answered)))
            return InvalidArgument(
                f"the model does not take {_form_text(job.form)}; it has answered {good}; {known.message}"
            )
        return known


def _alike(jobs: Sequence[Job]) -> bool:
    """Whether all are arrays or tensors whose first rows, where they have any, are equal."""
    if any(job.form is None for job in jobs):
        return False
    heads = [join([job.data[:1]]) for job in jobs if job.rows]
    return all(torch.equal(head, heads[0]) for head in heads[1:])


def _is_numeric(payload: Any) -> bool:
    if isinstance(payload, np.ndarray):
        return payload.dtype.kind in "fiub"
    return isinstance(payload, torch.Tensor)


def _describe(payload: Any) -> str:
    if isinstance(payload, np.ndarray):
        return f"an array of {payload.dtype}"
    return "binData" if isinstance(payload, bytes) else "strData" if isinstance(payload, str) else "jsonData"


def _frozen(tags: Mapping[str, Any]) -> str:
    return json.dumps(tags, sort_keys=True)


def _form_text(form: tuple[Any, ...]) -> str:
    dtype, trailing = form
    return f"{str(dtype).removeprefix('torch.')} of shape ({', '.join(['n', *map(str, trailing)])})"
