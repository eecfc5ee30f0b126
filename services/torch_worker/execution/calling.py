"""The model call itself: inputs joined, moved to the device, and of a dtype that the model takes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from services.torch_worker.execution.arguments import NamedInputs, arguments_of
from services.torch_worker.execution.tensors import join
from services.torch_worker.model.failures import is_out_of_memory

log = logging.getLogger(__name__)

_TORCH_FLOATS: dict[np.dtype[Any], torch.dtype] = {
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}
_NUMPY_FLOATS: dict[torch.dtype, np.dtype[Any]] = {t: n for n, t in _TORCH_FLOATS.items()}


class ModelCaller:
    """Calls a model with the joined inputs of some requests. Used by one thread at a time.

    Args:
        model: in evaluation mode, on device.
        device: where inputs are moved to; a custom run_model gets them as they are.
        run_model: calls the model in its place, if given.
        forward: called in the model's place, such as the model under autocast; None for the model itself.
        stage: joins arrays of rows to a tensor, on the host or already on the device.

    Attributes:
        model, device: as given.
        forward: what is called. Not to be changed while a call runs.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device: torch.device,
        run_model: Callable[..., Any] | None,
        *,
        forward: Callable[..., Any] | None = None,
        stage: Callable[[Sequence[np.ndarray[Any, Any]], np.dtype[Any] | None], torch.Tensor] = join,
    ) -> None:
        self.model = model
        self.device = device
        self.forward: Callable[..., Any] = forward if forward is not None else model
        self._stage = stage
        self._run_model = run_model
        self._arguments = arguments_of(model)
        self._dtype = _float_dtype(model)
        # Per floating input dtype other than the model's: whether the model needs it converted. Learnt by
        # trying.
        self._needs_cast: dict[torch.dtype | None, bool] = {}
        # The same for several inputs, by the dtypes of all.
        self._named_need_cast: dict[tuple[torch.dtype, ...], bool] = {}

    def enter_thread(self) -> None:
        """Called first on each thread that uses this caller for good."""

    def placed(self) -> contextlib.AbstractContextManager[None]:
        """Where another thread may use this caller for a while."""
        return contextlib.nullcontext()

    def call(
        self, inputs: Sequence[Any], model_kwargs: Mapping[str, Any], hook_kwargs: Mapping[str, Any]
    ) -> Any:
        """The model's output for the rows of all inputs.

        Args:
            inputs: one of anything, or several arrays or tensors of one dtype and trailing shape, or several dicts of
                such.
            model_kwargs: keyword arguments of the model.
            hook_kwargs: keyword arguments of run_model, which gets no others.
        """
        if self._run_model is not None:
            x = inputs[0] if len(inputs) == 1 else join(inputs)
            return self._run_model(self.model, x, **hook_kwargs)
        first = inputs[0]
        if isinstance(first, np.ndarray):
            target: np.dtype[Any] | None = None
            if self._dtype is not None and self._needs_cast.get(_TORCH_FLOATS.get(first.dtype)):
                target = _NUMPY_FLOATS.get(self._dtype)
            first = self._stage(inputs, target)
        elif len(inputs) > 1 or isinstance(first, NamedInputs):
            first = join(inputs)
        if isinstance(first, dict) and all(isinstance(x, torch.Tensor) for x in first.values()):
            return self._call_named(first, model_kwargs)
        if not isinstance(first, torch.Tensor):
            return self.forward(first.to(self.device) if hasattr(first, "to") else first, **model_kwargs)
        x = first.to(self.device)
        if self._dtype is None or x.dtype is self._dtype or not x.is_floating_point():
            return self.forward(x, **model_kwargs)
        return self._call_casting(x, self._dtype, model_kwargs)

    def _call_named(self, inputs: dict[str, torch.Tensor], model_kwargs: Mapping[str, Any]) -> Any:
        """Call with several inputs: the request's by forward's parameters, what preprocess made as the one dict it is.

        Their dtypes are tried as they are first, as in `_call_casting`.
        """
        inputs = type(inputs)((name, x.to(self.device)) for name, x in inputs.items())
        dtypes = tuple(x.dtype for x in inputs.values())
        needs_cast = self._named_need_cast.get(dtypes)
        if needs_cast is None:
            if self._dtype is None or all(t is self._dtype or not t.is_floating_point for t in dtypes):
                return self._invoke(inputs, model_kwargs)
            with _a_refusal():
                output = self._invoke(inputs, model_kwargs)
                self._named_need_cast[dtypes] = False
                return output
        if needs_cast is not False:
            inputs = type(inputs)(
                (name, x.to(self._dtype) if x.is_floating_point() else x) for name, x in inputs.items()
            )
        output = self._invoke(inputs, model_kwargs)
        if needs_cast is None:
            self._named_need_cast[dtypes] = True
        return output

    def _invoke(self, inputs: dict[str, torch.Tensor], model_kwargs: Mapping[str, Any]) -> Any:
        if not isinstance(inputs, NamedInputs) and self._arguments.required <= 1:
            return self.forward(inputs, **model_kwargs)
        positional, named = self._arguments.bind(inputs)
        taken = {*self._arguments.names[: len(positional)], *named}
        tags = {name: value for name, value in model_kwargs.items() if name not in taken}
        return self.forward(*positional, **named, **tags)

    def _call_casting(self, x: torch.Tensor, dtype: torch.dtype, model_kwargs: Mapping[str, Any]) -> Any:
        """Call with a floating input of another dtype than the model's weights.

        The wire's data.tensor is float64. A model that handles that itself must go on getting it (ids above
        2**24 do not survive float32); one that fails on it is given its own dtype.
        """
        needs_cast = self._needs_cast.get(x.dtype)
        if needs_cast is None:
            with _a_refusal():
                output = self.forward(x, **model_kwargs)
                self._needs_cast[x.dtype] = False
                return output
        elif not needs_cast:
            return self.forward(x, **model_kwargs)
        output = self.forward(x.to(dtype), **model_kwargs)
        if needs_cast is None:
            self._needs_cast[x.dtype] = True
            log.info("the model does not take %s input; it is converted to %s", x.dtype, dtype)
        return output


@contextlib.contextmanager
def _a_refusal() -> Iterator[None]:
    """Passes over what a model raises on a dtype that it does not take: most layers a RuntimeError, recurrent ones a
    ValueError. Memory that ran out says nothing about dtypes.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise


def _float_dtype(model: torch.nn.Module) -> torch.dtype | None:
    """dtype of the model's first floating parameter, or None if it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
