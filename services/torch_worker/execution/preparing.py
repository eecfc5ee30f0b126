"""From a request's payload to a `Job`: preprocess, tags, and what the job can share a model call with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libs.serving.errors import InvalidArgument, ServingError
from services.torch_worker.execution.arguments import NamedInputs
from services.torch_worker.execution.grouped import copied, grouped, results_of
from services.torch_worker.execution.jobs import (
    Job,
    describe,
    frozen,
    is_named,
    is_numeric,
    named_form,
    padded_form,
)
from services.torch_worker.execution.padding import length_of, padded_length
from services.torch_worker.model.failures import failure, together_failed
from services.torch_worker.model.hooks import Hooks
from services.torch_worker.model.model_config import PaddingConfig

Selector = Callable[[Mapping[str, Any]], dict[str, Any]]


class Preparer:
    """Makes jobs of requests. Used by any number of threads at a time.

    Args:
        hooks: of the model's folder.
        folder: names places in error messages.
        select_tags: which of a request's tags become arguments of the model; None: none.
        padding: what the folder asks for.
    """

    def __init__(
        self, hooks: Hooks, folder: Path, select_tags: Selector | None, padding: PaddingConfig | None
    ) -> None:
        self._hooks = hooks
        self._folder = folder
        self._select_tags = select_tags
        self._padding = padding
        self._preprocesses = hooks.preprocesses

    def prepare(self, payload: Any, meta: Mapping[str, Any]) -> Job:
        """See `Engine.prepare`."""
        kwargs: dict[str, Any] = {"meta": dict(meta)}
        if self._preprocesses:
            try:
                with torch.inference_mode():
                    payload = self._preprocess(payload, kwargs)
            except BaseException as error:
                name = "preprocess" if self._hooks.preprocess is not None else "preprocess_batch"
                raise failure(name, error, self._folder) from error
        elif self._hooks.run_model is None:
            if not is_numeric(payload):
                payload = self._inputs_of(payload)
        else:
            payload = _as_template(payload)
        return self._job(payload, kwargs)

    def prepare_many(self, requests: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[Job | ServingError]:
        """See `Engine.prepare_many`."""
        hook = self._hooks.preprocess_batch
        if hook is None:
            return [self._prepared(payload, meta) for payload, meta in requests]

        def together(some: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[Job | ServingError]:
            kwargs = [{"meta": dict(meta)} for _, meta in some]
            with torch.inference_mode():
                value = hook([copied(payload) for payload, _ in some], metas=[k["meta"] for k in kwargs])
            inputs = results_of(value, len(some), "preprocess_batch")
            return [self._job(data, k) for data, k in zip(inputs, kwargs, strict=True)]

        return grouped(
            requests,
            together,
            lambda request: self._prepared(*request),
            lambda error, count: together_failed("preprocess_batch", count, error, self._folder),
        )

    def _prepared(self, payload: Any, meta: Mapping[str, Any]) -> Job | ServingError:
        try:
            return self.prepare(payload, meta)
        except ServingError as error:
            return error

    def _preprocess(self, payload: Any, kwargs: dict[str, Any]) -> Any:
        hooks = self._hooks
        if isinstance(payload, np.ndarray):
            payload = payload if payload.flags.writeable else payload.copy()
        elif is_named(payload):
            payload = copied(payload)
        if hooks.preprocess is not None:
            return hooks.preprocess(payload, **kwargs)
        assert hooks.preprocess_batch is not None
        value = hooks.preprocess_batch([payload], metas=[kwargs["meta"]])
        return results_of(value, 1, "preprocess_batch")[0]

    def _inputs_of(self, payload: Any) -> Any:
        """What the model gets of a payload that is no array of numbers, where no hook says: named arrays."""
        if is_named(payload) and all(is_numeric(value) for value in payload.values()):
            return next(iter(payload.values())) if len(payload) == 1 else NamedInputs(payload)
        raise InvalidArgument(
            f"this model takes arrays of numbers (data.tensor, data.ndarray, data.tftensor), got "
            f"{describe(payload)}; a preprocess function in its processor.py could accept that"
        )

    def _job(self, data: Any, kwargs: dict[str, Any]) -> Job:
        tags = kwargs["meta"].get("tags") or {}
        # One tag is the task id that routed the call; more than one means arguments for the model.
        model_kwargs = self._select_tags(tags) if self._select_tags is not None and len(tags) > 1 else {}
        length = -1
        if self._padding is not None:
            length, data = self._measured(data, self._padding)
        rows, key, form = 1, None, None
        if isinstance(data, np.ndarray | torch.Tensor):
            if data.ndim == 0 or not is_numeric(data):
                return Job(data, kwargs, model_kwargs, 1, None, None)
            rows = data.shape[0]
            form = (data.dtype, data.shape[1:])
        elif isinstance(data, dict) and is_named(data):
            found = named_form(data)
            if found is None:
                return Job(data, kwargs, model_kwargs, 1, None, None)
            rows, form = found
        else:
            return Job(data, kwargs, model_kwargs, 1, None, None)
        relevant = model_kwargs
        if self._hooks.run_model is not None:
            # It sees all tags, KServe's parameters and the columns' names, so only requests with equal ones may share
            # its call.
            meta = kwargs["meta"]
            relevant = {**tags, **meta.get("parameters", {})}
            if meta.get("names"):
                relevant["data.names"] = list(meta["names"])
        divided = frozen(relevant) if relevant else None
        key = (type(data), *form, divided)
        if length < 0 or self._padding is None:
            return Job(data, kwargs, model_kwargs, rows, key, form)
        filled = padded_form(form, padded_length(length, self._padding.multiple_of))
        return Job(
            data, kwargs, model_kwargs, rows, key, form, length, ("padded", type(data), *filled, divided)
        )

    def _measured(self, data: Any, padding: PaddingConfig) -> tuple[int, Any]:
        """The length of the sequences in data, or -1; and data, with a mask among named inputs if one is asked for."""
        length = length_of(data)
        if length is None:
            return -1, data
        if padding.mask is not None and isinstance(data, dict) and padding.mask not in data:
            rows = len(next(iter(data.values())))
            data = type(data)({**data, padding.mask: torch.ones(rows, length, dtype=torch.bool)})
        return length, data


def _as_template(payload: Any) -> Any:
    """What a run_model without a preprocess gets: tensors for arrays, as the template's preprocess makes them."""
    if isinstance(payload, np.ndarray):
        return torch.from_numpy(payload.copy()) if is_numeric(payload) else payload.copy()
    if is_named(payload):
        return {name: _as_template(value) for name, value in payload.items()}
    return payload
