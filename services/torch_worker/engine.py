"""The model engine: hooks, model calls shared by requests, and answers. Knows no protocol and no event loop.

A request becomes a `Job` (`prepare`, on any thread), jobs of one key run together (`run`, on the model's
thread), and every job gets its own answer or its own error. The answers are those that the requests would get
one by one: that is checked on the first batch (`_Sharing`), and a batch whose model call fails is run again
    one by one.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libs.serving.errors import InvalidArgument, ServingError
from services.torch_worker.hooks import Hooks, failure
from services.torch_worker.tensors import NotSplittableError, join, plain, plain_parts, same, split

log = logging.getLogger(__name__)

_TORCH_FLOATS: dict[np.dtype[Any], torch.dtype] = {
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}
_NUMPY_FLOATS: dict[torch.dtype, np.dtype[Any]] = {t: n for n, t in _TORCH_FLOATS.items()}


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way through the engine.

    Attributes:
        data: the model's input: preprocess's result, or the payload where there is no preprocess.
        kwargs: what the hooks get as keyword arguments: {"meta": {"tags": {...}, ...}}.
        model_kwargs: keyword arguments of the model call, from the tags; mostly empty.
        rows: size of dimension 0, for jobs that can share a call; else 1.
        key: jobs of equal keys can share a call; None: this one cannot.
    """

    data: Any
    kwargs: dict[str, Any]
    model_kwargs: dict[str, Any]
    rows: int
    key: Hashable


class Engine:
    """A loaded model with its hooks.

    Args:
        model: in evaluation mode, on device.
        hooks: of the model's folder.
        device: where inputs are moved before the model call (a custom run_model gets them as they are).
        folder: names places in error messages.
        batchable: see ModelConfig.batchable.

    `prepare` may run on several threads at a time; `run` must not.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        hooks: Hooks,
        *,
        device: torch.device,
        folder: Path,
        batchable: bool | None = None,
    ) -> None:
        self._model = model
        self._hooks = hooks
        self._device = device
        self._folder = folder
        self._select_tags = tag_selector(model) if hooks.model_takes_tags else None
        self._dtype = _float_dtype(model)
        # Per floating input dtype other than the model's: whether the model needs it converted. Learnt by
        # trying.
        self._needs_cast: dict[torch.dtype | None, bool] = {}
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
        return no_hooks and self._device.type == "cpu"

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
        rows, key = 1, None
        if isinstance(payload, np.ndarray | torch.Tensor) and payload.ndim > 0 and _is_numeric(payload):
            rows = payload.shape[0]
            # A run_model sees all tags, so only equal ones may share its call.
            relevant = tags if self._hooks.run_model is not None else model_kwargs
            key = (type(payload), payload.dtype, payload.shape[1:], _frozen(relevant) if relevant else None)
        return Job(payload, kwargs, model_kwargs, rows, key)

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Answer jobs of one key; in an answer's place stands a ServingError where a job failed.

        An answer is what postprocess returned, or without one what `tensors.plain` makes of the model's
        output.
        """
        with torch.inference_mode():
            if len(jobs) == 1:
                return [self._run_alone(jobs[0])]
            if not self._shares:
                return [self._run_alone(job) for job in jobs]
            if not self._verified:
                return self._verify(jobs)
            return self._run_shared(jobs)

    def _run_shared(self, jobs: Sequence[Job]) -> list[Any]:
        rows = [job.rows for job in jobs]
        try:
            output = self._call([job.data for job in jobs], jobs[0])
            if self._hooks.postprocess is None:
                return list(plain_parts(output, rows))
            parts = split(output, rows)
        except NotSplittableError as reason:
            self._stop_sharing(str(reason))
            return [self._run_alone(job) for job in jobs]
        except BaseException as error:
            log.warning(
                "a shared model call of %d requests failed (%s); running them one by one", len(jobs), error
            )
            return [self._run_alone(job) for job in jobs]
        return [self._finish(job, part) for job, part in zip(jobs, parts, strict=True)]

    def _run_alone(self, job: Job) -> Any:
        try:
            output = self._call([job.data], job)
        except BaseException as error:
            return self._model_failure(error)
        return self._finish(job, output)

    def _verify(self, jobs: Sequence[Job]) -> list[Any]:
        """Run the first batch both ways and compare; share calls from now on only if the answers are the
        same.
        """
        outputs: list[Any] = []
        for job in jobs:
            try:
                outputs.append(self._call([job.data], job))
            except BaseException as error:
                outputs.append(self._model_failure(error))
        if any(isinstance(output, ServingError) for output in outputs):
            return [
                o if isinstance(o, ServingError) else self._finish(j, o)
                for j, o in zip(jobs, outputs, strict=True)
            ]
        try:
            shared = split(self._call([job.data for job in jobs], jobs[0]), [job.rows for job in jobs])
            if all(same(part, output) for part, output in zip(shared, outputs, strict=True)):
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
        return [self._finish(job, output) for job, output in zip(jobs, outputs, strict=True)]

    def _stop_sharing(self, reason: str) -> None:
        self._shares = False
        log.warning(
            "requests will not share model calls: %s (batchable in config.toml overrides this)", reason
        )

    def _call(self, inputs: Sequence[Any], job: Job) -> Any:
        """One model call on the joined inputs, with job's keyword arguments."""
        if self._hooks.run_model is not None:
            x = inputs[0] if len(inputs) == 1 else join(inputs)
            return self._hooks.run_model(self._model, x, **job.kwargs)
        first = inputs[0]
        if isinstance(first, np.ndarray):
            target: np.dtype[Any] | None = None
            if self._dtype is not None and self._needs_cast.get(_TORCH_FLOATS.get(first.dtype)):
                target = _NUMPY_FLOATS.get(self._dtype)
            first = join(inputs, target)
        elif len(inputs) > 1:
            first = join(inputs)
        if not isinstance(first, torch.Tensor):
            return self._model(first.to(self._device) if hasattr(first, "to") else first, **job.model_kwargs)
        x = first.to(self._device)
        if self._dtype is None or x.dtype is self._dtype or not x.is_floating_point():
            return self._model(x, **job.model_kwargs)
        return self._call_casting(x, job.model_kwargs)

    def _call_casting(self, x: torch.Tensor, model_kwargs: Mapping[str, Any]) -> Any:
        """Call with a floating input of another dtype than the model's weights.

        The wire's data.tensor is float64. A model that handles that itself must go on getting it (ids above
        2**24 do not survive float32); one that fails on it is given its own dtype.
        """
        assert self._dtype is not None
        needs_cast = self._needs_cast.get(x.dtype)
        if needs_cast is None:
            with contextlib.suppress(RuntimeError):
                output = self._model(x, **model_kwargs)
                self._needs_cast[x.dtype] = False
                return output
        elif not needs_cast:
            return self._model(x, **model_kwargs)
        output = self._model(x.to(self._dtype), **model_kwargs)
        if needs_cast is None:
            self._needs_cast[x.dtype] = True
            log.info("the model does not take %s input; it is converted to %s", x.dtype, self._dtype)
        return output

    def _finish(self, job: Job, output: Any) -> Any:
        hook = self._hooks.postprocess
        try:
            return plain(output) if hook is None else hook(output, **job.kwargs)
        except BaseException as error:
            return failure("postprocess", error, self._folder)

    def _model_failure(self, error: BaseException) -> ServingError:
        return failure("run_model" if self._hooks.run_model is not None else "the model", error, self._folder)


def tag_selector(model: torch.nn.Module) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Which tags of a request become keyword arguments of the model: those that its forward has parameters
    for.

    All of them where forward takes **kwargs or its signature cannot be read. The first parameter is the input
    itself.
    """
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return dict
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return dict
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    accepted = frozenset(p.name for p in parameters[1:] if p.kind in named)
    return lambda tags: {name: value for name, value in tags.items() if name in accepted}


def _float_dtype(model: torch.nn.Module) -> torch.dtype | None:
    """dtype of the model's first floating parameter, or None if it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


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
