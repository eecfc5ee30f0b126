"""Calls that warm a model up: recorded requests, or made-up rows."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from libs.serving.errors import ServingError
from services.torch_worker.execution.arguments import NamedInputs
from services.torch_worker.execution.calling import ModelCaller
from services.torch_worker.execution.engine import Engine
from services.torch_worker.execution.guess import declared, guesses
from services.torch_worker.execution.recorded import Recorded
from services.torch_worker.execution.threads import Requests
from services.torch_worker.model.model_config import TensorSpec

log = logging.getLogger(__name__)


class Load(Protocol):
    """Calls that warm a model up.

    Attributes:
        requests: what its requests are like.
        shared: whether requests may share a call.
    """

    @property
    def requests(self) -> Requests: ...

    @property
    def shared(self) -> bool: ...

    def run(self, count: int, instance: int) -> None:
        """One call with so many requests. Raises whatever the model does."""


class RecordedLoad:
    """Recorded requests through the whole engine, hooks and all; the check that calls can be shared is thereby made
    before the first caller comes.
    """

    def __init__(self, engine: Engine, callers: Sequence[ModelCaller], recorded: Recorded) -> None:
        self._engine = engine
        self._callers = callers
        self._recorded = recorded
        job = self._prepare()
        self.requests = Requests(max(job.rows, 1), recorded.bytes)

    @property
    def shared(self) -> bool:
        """Whether requests may share a call."""
        return self._engine.shares_calls

    def run(self, count: int, instance: int) -> None:
        """One call with the recorded request so many times.

        Raises:
            ServingError: as a caller would see it.
        """
        jobs = [self._prepare() for _ in range(count)]
        with self._callers[instance].placed():
            answers = self._engine.run(jobs, instance)
        for answer in answers:
            if isinstance(answer, ServingError):
                raise answer

    def _prepare(self) -> Any:
        return self._engine.prepare(self._recorded.payload, {"tags": dict(self._recorded.tags)})


class SyntheticLoad:
    """Made-up rows through the model alone.

    Args:
        callers: of the instances.
        row: an array of one row, or several by name.
        shared: whether requests may share a call.
    """

    def __init__(self, callers: Sequence[ModelCaller], row: Any, shared: bool) -> None:
        self._callers = callers
        self._row = row
        self.shared = shared
        arrays = row.values() if isinstance(row, NamedInputs) else [row]
        # What a caller would send: data.tensor is float64.
        self.requests = Requests(1, sum(array.size for array in arrays) * 8)

    def run(self, count: int, instance: int) -> None:
        """One call with so many rows."""
        caller = self._callers[instance]
        with torch.inference_mode(), caller.placed():
            caller.call([self._row] * count, {}, {})


def synthetic_load(
    callers: Sequence[ModelCaller], specs: Sequence[TensorSpec], shared: bool
) -> SyntheticLoad | None:
    """Rows that the model takes, by its declared inputs if there are any; None if no guess is one.

    Numbers are tried as float64 too, which the wire's tensors are: what the model makes of them is then known.
    """
    rows = iter([declared(specs)]) if specs else guesses(callers[0].model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in rows:
            if row is None:
                continue
            try:
                load = SyntheticLoad(callers, row, shared)
                load.run(1, 0)
                if isinstance(row, np.ndarray) and row.dtype.kind == "f":
                    load = SyntheticLoad(callers, row.astype(np.float64), shared)
                    load.run(1, 0)
                return load
            except Exception as error:  # a guess that was wrong, whatever the model says to it
                level = logging.WARNING if specs else logging.DEBUG
                log.log(level, "the model does not take made-up rows: %s: %s", type(error).__name__, error)
    return None
